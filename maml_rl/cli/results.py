"""The commands about finished runs: ``maml-rl evaluate | tune | plot | video | report``."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from maml_rl.experiments.evaluation import AdaptationResult
    from maml_rl.experiments.held_out import HeldOut


def evaluate(
    run: Positional[Path],
    *,
    steps: int | None = None,
    inner_lr: float | None = None,
    episodes: int | None = None,
    tasks: int | None = None,
    seed: int = 0,
    policy: Literal["best", "latest"] = "best",
    pretrained: bool = False,
    num_workers: int | None = None,
    address: str | None = None,
    json: bool = False,
) -> None:
    """Adapt a trained policy to held-out tasks and print returns after 0 .. STEPS gradient steps.

    Results are also written into the run directory, as adaptation.csv and adaptation.json.

    Args:
        run: a run directory; with --pretrained, the preset whose shipped policy is meant.
        steps: gradient steps; default: 3, or 0 for a policy that is not adapted (oracle).
        inner_lr: step size of the first gradient step (later ones take half of it); default: the run's.
        episodes: episodes per task and step; default: the paper's protocol for the preset.
        tasks: number of held-out tasks, drawn with --seed; default: the paper's own 40 tasks.
        seed: of the rollouts.
        policy: the policy with the best return after adaptation, or the latest one.
        pretrained: evaluate the policy that comes with the package; nothing is written.
        num_workers: processes of a local Ray; 0 evaluates in this process. Default: one per core.
        address: Ray cluster to connect to; default: RAY_ADDRESS, else a local Ray.
        json: print JSON instead of a table.
    """
    from maml_rl.experiments.evaluation import markdown_table
    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.run import Run
    from maml_rl.policies.policy_file import load_policy, pretrained_policy

    folder = None if pretrained else Run.open(run)
    loaded = folder.policy(policy) if folder else load_policy(pretrained_policy(str(run)))
    held_out = HeldOut(loaded, steps=steps, inner_lr=inner_lr, episodes=episodes, tasks=tasks, seed=seed)
    result = _measure(held_out, num_workers, address)
    description = held_out.description()
    if folder:
        result.save(folder.path, description)
    if json:
        print_json({"run": str(run), "policy": policy, **description, **result.as_dict()})
        return
    name = f"{description['method']}, iteration {description['iteration']}"
    rows: dict[str, Sequence[tuple[float, float | None]]] = {
        name: list(zip(result.mean, result.interval, strict=True))
    }
    if held_out.papers_row:
        rows["Finn et al. 2017"] = held_out.papers_row
    print(markdown_table(rows))
    count = result.returns.shape[1]
    print(f"({count} tasks, {held_out.episodes} episodes per step, mean ± 95 % interval over tasks)")


def tune(
    run: Positional[Path],
    *,
    inner_lr: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    steps: int = 1,
    tasks: int = 20,
    seed: int = 1,
    policy: Literal["best", "latest"] = "best",
    num_workers: int | None = None,
    address: str | None = None,
    json: bool = False,
) -> None:
    """Try step sizes for fine-tuning a run's policy, on tasks that are not the test tasks.

    Args:
        run: a run directory.
        inner_lr: the step sizes to try.
        steps: gradient steps after which the returns are compared.
        tasks: number of tasks, drawn from the environment's distribution.
        seed: of the tasks and the rollouts.
        policy: the policy with the best return after adaptation, or the latest one.
        num_workers: processes of a local Ray; 0 evaluates in this process. Default: one per core.
        address: Ray cluster to connect to; default: RAY_ADDRESS, else a local Ray.
        json: print JSON instead of a table.
    """
    from maml_rl.experiments.evaluation import markdown_table
    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.run import Run

    if steps < 1:
        raise ValueError(
            f"steps is {steps}; it must be 1 or more: without a gradient step there is no step size"
        )
    loaded = Run.open(run).policy(policy)
    candidates = [HeldOut(loaded, steps=steps, inner_lr=lr, tasks=tasks, seed=seed) for lr in inner_lr]
    results = {c.inner_lr: _measure(c, num_workers, address) for c in candidates}
    best = max(results, key=lambda lr: results[lr].mean[-1])
    if json:
        print_json({"run": str(run), "best": best, "mean": {k: r.mean.tolist() for k, r in results.items()}})
        return
    rows = {f"{lr:g}": list(zip(r.mean, r.interval, strict=True)) for lr, r in results.items()}
    print(markdown_table(rows))
    print(
        f"best step size after {steps} gradient step(s): {best:g}; use it with evaluate --inner-lr {best:g}"
    )


def plot(runs: Positional[tuple[Path, ...]], *, output: Path | None = None, seed: int = 0) -> None:
    """Draw learning and adaptation curves, as PNG and SVG: of one run, or of several runs together.

    Several runs of a method (with different seeds) become one curve with its 95 % interval; different methods
    become curves of one panel, with the paper's values beside them; different presets become panels (Figures
    4 and 5 of the paper). For point navigation the trajectories before and after one gradient step are drawn.

    Args:
        runs: run directories.
        output: folder of the pictures; default: the run's own directory, or plots/ for several runs.
        seed: of the rollouts whose trajectories are drawn.
    """
    from maml_rl.experiments.run import Run
    from maml_rl.views.figures import draw_all

    if not runs:
        raise ValueError("runs is empty; plot needs at least one run directory")
    folder = output or (runs[0] if len(runs) == 1 else Path("plots"))
    files = draw_all([Run.open(run) for run in runs], folder, seed=seed)
    print("\n".join(map(str, files)))


def video(
    run: Positional[Path],
    *,
    task: tuple[float, ...] | None = None,
    steps: int = 1,
    inner_lr: float | None = None,
    output: Path | None = None,
    seed: int = 0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    policy: Literal["best", "latest"] = "best",
    pretrained: bool = False,
) -> None:
    """Film a policy before and after adaptation to a task, side by side. Needs no display.

    Args:
        run: a run directory; with --pretrained, the preset whose shipped policy is meant.
        task: the task's numbers; default: the first held-out task.
        steps: gradient steps.
        inner_lr: step size of the first gradient step (later ones take half of it); default: the run's.
        output: an .mp4 or .gif file; default: video.mp4 in the run directory, or PRESET.mp4.
        seed: of the rollouts and the initial state.
        fps: frames per second; default: real time.
        size: width and height of each of the two pictures.
        policy: the policy with the best return after adaptation, or the latest one.
        pretrained: film the policy that comes with the package.
    """
    from rich.console import Console

    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.run import Run
    from maml_rl.policies.policy_file import load_policy, pretrained_policy
    from maml_rl.views.video import make_video

    folder = None if pretrained else Run.open(run)
    loaded = folder.policy(policy) if folder else load_policy(pretrained_policy(str(run)))
    held_out = HeldOut(loaded, steps=steps, inner_lr=inner_lr, seed=seed)
    with Console(stderr=True).status("opening the environment") as status:
        made = make_video(
            held_out,
            output or (folder.path / "video.mp4" if folder else Path(f"{run}.mp4")),
            task=task,
            fps=fps,
            size=size,
            on_progress=status.update,
        )
    print(
        f"{made.path}: {made.frames} frames at {made.fps:g}/s, "
        f"return {made.return_before:.2f} before and {made.return_after:.2f} after adaptation"
    )


def report(runs: Positional[tuple[Path, ...]], *, output: Path = Path("report.html")) -> None:
    """Write one HTML file about one or several runs of an environment: settings, curves, tables, videos.

    Args:
        runs: run directories.
        output: the file.
    """
    from rich.console import Console

    from maml_rl.experiments.run import Run
    from maml_rl.views.report import write_report

    with Console(stderr=True).status("reading") as status:
        write_report([Run.open(run) for run in runs], output, status.update)
    print(output)


def _measure(held_out: HeldOut, num_workers: int | None, address: str | None) -> AdaptationResult:
    """Evaluate, with a line of progress: in this process, or on Ray."""
    from rich.console import Console

    from maml_rl.experiments.evaluation import evaluate as evaluate_here

    tasks = held_out.tasks
    with Console(stderr=True).status(f"evaluating on {len(tasks)} tasks") as status:

        def show(done: int) -> None:
            status.update(f"evaluated {done} of {len(tasks)} tasks")

        if num_workers == 0:
            return evaluate_here(held_out.make_env(), held_out.protocol, tasks, on_progress=show)
        import ray

        from maml_rl.experiments.parallel_evaluation import evaluate_in_parallel
        from maml_rl.tools.ray_start import start_ray

        if not ray.is_initialized():
            start_ray(address, num_workers)
        return evaluate_in_parallel(held_out.make_env, held_out.protocol, tasks, on_progress=show)


def print_json(value: dict[str, Any]) -> None:
    """What ``--json`` prints."""
    print(dumps(value, indent=1))
