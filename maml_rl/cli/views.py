"""``maml-rl plot``, ``maml-rl video``, ``maml-rl report`` and ``maml-rl export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import FlagCreatePairsOff, Positional


def plot(
    runs: Positional[tuple[str, ...]],
    *,
    output: str | None = None,
    seed: int = 0,
    against: Literal["iteration", "env_steps"] = "iteration",
) -> None:
    """Draw learning and adaptation curves, as PNG, SVG and PDF: of one run, or of several runs together.

    Several runs of a method (with different seeds) become one curve with its 95 % interval; different methods
    become curves of one panel, with the paper's values beside them; different presets become panels (Figures
    4 and 5 of the paper). For point navigation the trajectories before and after one gradient step are drawn.

    Args:
        runs: run directories.
        output: folder of the pictures; by default the run's own directory, or plots for several runs.
        seed: of the rollouts whose trajectories are drawn.
        against: draw learning curves against meta-iterations, or against environment steps.
    """
    from maml_rl.experiments.run import Run
    from maml_rl.tools.storage import child, writable_folder
    from maml_rl.views.figures import draw_all

    if not runs:
        raise ValueError("runs is empty; plot needs at least one run directory")
    opened = [Run.open(run) for run in runs]
    place = output or (opened[0].place if len(runs) == 1 else "plots")
    with writable_folder(place) as folder:
        files = draw_all(opened, folder, seed=seed, against=against)
    print("\n".join(str(child(place, file.name)) for file in files))


def video(
    run: Positional[str],
    *,
    task: tuple[float, ...] | None = None,
    steps: int | None = None,
    inner_lr: float | None = None,
    output: str | None = None,
    seed: int = 0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    policy: Literal["best", "latest"] = "best",
    pretrained: FlagCreatePairsOff[bool] = False,
    env: str | None = None,
    module: str | None = None,
) -> None:
    """Film a policy before and after adaptation to a task, side by side. Needs no display.

    Of RL2 the first and the last episode of a trial are shown, of an oracle one episode.

    Args:
        run: a run directory; with --pretrained, the preset whose shipped policy is meant, or an exported folder.
        task: the task's numbers; by default those of the first held-out task.
        steps: gradient steps; 1 unless given, or 0 for a policy that is not adapted (oracle, RL2).
        inner_lr: step size of the first gradient step, of which later ones take half; by default the run's.
        output: an .mp4 or .gif file; by default video.mp4 in the run directory, or PRESET.mp4.
        seed: of the rollouts and the initial state.
        fps: frames per second; by default those of real time.
        size: width and height in pixels of each of the two pictures.
        policy: the policy with the best return after adaptation, or the latest one.
        pretrained: film a policy that comes with the package or was exported.
        env: the run's environment, where it is not the package's own: files do not choose what is imported.
        module: likewise the network of its policy, where it is one of your own.
    """
    from rich.console import Console

    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.methods import METHODS
    from maml_rl.experiments.run import trained_policy
    from maml_rl.tools.progress import counting_display
    from maml_rl.tools.storage import writable_file
    from maml_rl.views.video import make_video

    folder, loaded = trained_policy(run, policy, pretrained)
    if steps is None:
        steps = 1 if METHODS[loaded.info["method"]].adapts else 0
    held_out = HeldOut(loaded, steps=steps, inner_lr=inner_lr, seed=seed, env=env, module=module)
    place = output or (folder.shown("video.mp4") if folder else f"{Path(run)}.mp4")
    with counting_display(Console(stderr=True)) as show, writable_file(place) as file:
        made = make_video(held_out, file, task=task, fps=fps, size=size, show=show)
    told = ", ".join(f"{value:.2f} {caption}" for caption, value in made.returns.items())
    print(f"{place}: {made.frames} frames at {made.fps:g}/s, return {told}")


def report(runs: Positional[tuple[str, ...]], *, output: str | None = None) -> None:
    """Write one HTML file about one or several runs of an environment: settings, curves, tables, videos.

    Args:
        runs: run directories, or the folder of one search.
        output: the file; by default report.html in the run's own directory, or in the present one for several runs.
    """
    from rich.console import Console

    from maml_rl.experiments.run import Run
    from maml_rl.tools.progress import counting_display
    from maml_rl.tools.storage import writable_file
    from maml_rl.views.report import write_report

    with counting_display(Console(stderr=True)) as show:
        opened = [Run.open(run) for run in runs]
        place = output or ("report.html" if len(runs) != 1 else opened[0].shown("report.html"))
        with writable_file(place) as file:
            write_report(opened, file, show)
    print(place)


def export(run: Positional[str], *, to: Path, policy: Literal["best", "latest"] = "best") -> None:
    """Write a trained policy for others: one file, what it was trained on, and a model card.

    The folder has the layout of model hubs; evaluate, video and Python load it, with --pretrained or
    maml_rl.policies.policy_file.load_policy.

    Args:
        run: a run directory.
        to: a new folder.
        policy: the policy with the best return after adaptation, or the latest one.
    """
    from maml_rl.experiments.run import Run
    from maml_rl.views.model_card import export as write

    print("\n".join(map(str, write(Run.open(run), policy, to))))
