"""The command line: ``maml-rl train | evaluate | tune | plot | video | report``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import re
import sys
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from maml_rl.config import TRAINING_FIELDS, MAMLConfig
from maml_rl.envs import make_task_env
from maml_rl.methods import MethodName, configure
from maml_rl.presets import EXPERIMENTS, get_experiment
from maml_rl.resources import check_resources

if TYPE_CHECKING:
    from maml_rl.evaluation import AdaptationResult
    from maml_rl.held_out import HeldOut
    from maml_rl.policy_file import PolicyFile


def _config_fields() -> type:
    """A dataclass with one optional field per config field, from ``MAMLConfig.training`` and its docstring."""
    help_texts = dict(re.findall(r"^ +(\w+): (.+?)$", inspect.getdoc(MAMLConfig.training) or "", re.M))
    hints = typing.get_type_hints(MAMLConfig.training)
    fields = [
        (
            name,
            Annotated[hints[name] | None, tyro.conf.arg(help=f"{help_texts[name]} (default: the preset's)")],
            dataclasses.field(default=None),
        )
        for name in TRAINING_FIELDS
    ]
    return dataclasses.make_dataclass("ConfigFields", fields)


ConfigFields = _config_fields()


def train(
    preset: Positional[str | None] = None,
    *,
    method: MethodName | None = None,
    fields: OmitArgPrefixes[ConfigFields] = ConfigFields(),  # type: ignore[valid-type]  # noqa: B008
    env_config: dict[str, str] | None = None,
    num_env_runners: int | None = None,
    gpus: Literal[0, 1] | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    start_from: Path | None = None,
    checkpoint_every: int = 10,
    address: str | None = None,
    json: bool = False,
) -> None:
    """Meta-train a policy. Ctrl-C ends after the present iteration, with a checkpoint.

    Args:
        preset: the experiment to run, or module:Class for an environment of your own; not needed with
            --resume.
        method: maml (default), or a baseline of the paper.
        env_config: further arguments of the environment, as NAME VALUE pairs.
        num_env_runners: rollout worker processes; 0 collects in this process. Default: one per core of the
            machine, at most 8.
        gpus: 1 runs the learner as an actor on a GPU.
        iterations: meta-updates in total; default: the preset's.
        seed: the run is a function of its configuration and this number.
        output: run directory; default: runs/PRESET-DATE-TIME.
        resume: continue the run in this directory.
        start_from: begin with the trained policy of this run directory or *.safetensors file.
        checkpoint_every: iterations between checkpoints.
        address: Ray cluster to connect to; default: RAY_ADDRESS, else a local Ray.
        json: print the last iteration's metrics as JSON.
    """
    from maml_rl.run_directory import RunDirectory
    from maml_rl.training import TrainingRun, describe, start_ray

    run = None
    if resume is not None:
        run = RunDirectory.open(resume)
        config, preset, method, stored_iterations = _stored_config(run, preset, method)
    elif preset is None:
        raise ValueError(f"preset is missing; it must be one of: {', '.join(EXPERIMENTS)}")
    else:
        method = method or "maml"
        config, stored_iterations = configure(get_experiment(preset), method)
        config.num_env_runners = _default_env_runners()
    given = {k: v for k, v in vars(fields).items() if v is not None}
    if env_config is not None:
        given["env_config"] = {**config.env_config, **{k: _literal(v) for k, v in env_config.items()}}
    if seed is not None:
        given["seed"] = seed
    _apply(config, given, frozen=run)
    if num_env_runners is not None:
        config.num_env_runners = num_env_runners
    if gpus is not None:
        config.learners(num_learners=gpus, num_gpus_per_learner=gpus)
    total = stored_iterations if iterations is None else iterations
    least = 0 if method == "random" else 1  # fresh weights are not trained
    if total < least or checkpoint_every < 1:
        raise ValueError(
            f"iterations is {total}, checkpoint_every is {checkpoint_every}; "
            f"they must be at least {least} and 1"
        )
    config.validate()
    if run is not None and output is not None:
        raise ValueError(f"output is {output}, but a resumed run stays in its directory {run.path}")
    if run is not None and start_from is not None:
        raise ValueError(f"start_from is {start_from}, but the run in {run.path} is resumed: it has a policy")
    initial = None if start_from is None else _initial_policy(config, start_from)
    start_ray(address)
    check_resources(config)
    if run is None:
        name = preset if method == "maml" else f"{preset}-{method}"
        output = output or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        description = describe(config, preset, method, total)
        if initial is not None:
            description["start_from"] = {"path": str(start_from), **initial.info}
        run = RunDirectory.create(output, description)
    started = time.monotonic()
    row = TrainingRun(
        config,
        run,
        preset,
        method,
        total,
        checkpoint_every,
        resume=resume is not None,
        start_from=None if initial is None else {k: v.numpy() for k, v in initial.params.items()},
    )()
    if json:
        _print_json({**row, "run": str(run.path)})
    else:
        print(f"{run.path}: {time.monotonic() - started:.0f} s; next: maml-rl evaluate {run.path}")


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
    from maml_rl.evaluation import markdown_table
    from maml_rl.held_out import HeldOut
    from maml_rl.policy_file import load_policy, pretrained_policy
    from maml_rl.run_directory import RunDirectory

    folder = None if pretrained else RunDirectory.open(run)
    loaded = folder.policy(policy) if folder else load_policy(pretrained_policy(str(run)))
    held_out = HeldOut(loaded, steps=steps, inner_lr=inner_lr, episodes=episodes, tasks=tasks, seed=seed)
    result = _measure(held_out, num_workers, address)
    description = held_out.description()
    if folder:
        result.save(folder.path, description)
    if json:
        _print_json({"run": str(run), **description, **result.as_dict()})
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
    from maml_rl.evaluation import markdown_table
    from maml_rl.held_out import HeldOut
    from maml_rl.run_directory import RunDirectory

    if steps < 1:
        raise ValueError(
            f"steps is {steps}; it must be 1 or more: without a gradient step there is no step size"
        )
    loaded = RunDirectory.open(run).policy(policy)
    candidates = [HeldOut(loaded, steps=steps, inner_lr=lr, tasks=tasks, seed=seed) for lr in inner_lr]
    results = {c.inner_lr: _measure(c, num_workers, address) for c in candidates}
    best = max(results, key=lambda lr: results[lr].mean[-1])
    if json:
        _print_json({"run": str(run), "best": best, "mean": {k: r.mean.tolist() for k, r in results.items()}})
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
    from maml_rl.figures import draw_all
    from maml_rl.run_directory import RunDirectory

    if not runs:
        raise ValueError("runs is empty; plot needs at least one run directory")
    folder = output or (runs[0] if len(runs) == 1 else Path("plots"))
    files = draw_all([RunDirectory.open(run) for run in runs], folder, seed=seed)
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

    from maml_rl.held_out import HeldOut
    from maml_rl.policy_file import load_policy, pretrained_policy
    from maml_rl.run_directory import RunDirectory
    from maml_rl.video import make_video

    folder = None if pretrained else RunDirectory.open(run)
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

    from maml_rl.report import write_report
    from maml_rl.run_directory import RunDirectory

    with Console(stderr=True).status("reading") as status:
        write_report([RunDirectory.open(run) for run in runs], output, status.update)
    print(output)


# --- helpers


def _stored_config(
    run: Any, preset: str | None, method: str | None
) -> tuple[MAMLConfig, str, MethodName, int]:
    stored = run.description()
    for name, value in (("preset", preset), ("method", method)):
        if value not in (None, stored[name]):
            raise ValueError(f"{name} is {value!r}, but {run.path} holds a run of {stored[name]!r}")
    config = MAMLConfig()
    for name, value in stored["config"].items():
        setattr(config, name, value)
    config.hidden_sizes = tuple(config.hidden_sizes)
    return config, stored["preset"], stored["method"], stored["iterations"]


def _initial_policy(config: MAMLConfig, source: Path) -> PolicyFile:
    """The policy to begin with; it must be of the shape that ``config`` trains on its environment."""
    from maml_rl.policy_file import PolicyFileError, load_policy
    from maml_rl.run_directory import RunDirectory

    path = source if source.suffix == ".safetensors" else RunDirectory.open(source).policy_path("best")
    policy = load_policy(path)
    env = make_task_env(config.env, 1, config.horizon, dict(config.env_config))
    spec = config.policy_spec(env.single_observation_space, env.single_action_space)
    env.close()
    if policy.spec.shapes != spec.shapes or policy.spec.activation != spec.activation:
        raise PolicyFileError(f"start_from: {path} holds {policy.spec}, but this run trains {spec}")
    return policy


def _apply(config: MAMLConfig, given: dict[str, Any], frozen: Any) -> None:
    """Set fields; on a resumed run (``frozen``) refuse those that differ from what it was started with."""
    for name, value in given.items():
        stored = getattr(config, name)
        if frozen is not None and value != stored:
            raise ValueError(
                f"{name} is {value!r}, but the run in {frozen.path} was started with {stored!r}: "
                "a resumed run keeps its configuration"
            )
        setattr(config, name, value)


def _default_env_runners() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def _measure(held_out: HeldOut, num_workers: int | None, address: str | None) -> AdaptationResult:
    """Evaluate, with a line of progress: in this process, or on Ray."""
    from rich.console import Console

    from maml_rl.evaluation import evaluate as evaluate_here

    tasks = held_out.tasks
    with Console(stderr=True).status(f"evaluating on {len(tasks)} tasks") as status:

        def show(done: int) -> None:
            status.update(f"evaluated {done} of {len(tasks)} tasks")

        if num_workers == 0:
            return evaluate_here(held_out.make_env(), held_out.protocol, tasks, on_progress=show)
        import ray

        from maml_rl.parallel_evaluation import evaluate_in_parallel
        from maml_rl.training import start_ray

        if not ray.is_initialized():
            start_ray(address, num_workers)
        return evaluate_in_parallel(held_out.make_env, held_out.protocol, tasks, on_progress=show)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 when a run failed, 2 for wrong input."""
    # RLlib announces its internals at every start; what concerns the user is raised as an error.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    sys.path.insert(0, os.getcwd())  # module:Class names a module of the present folder, as with python -m
    try:
        tyro.extras.subcommand_cli_from_dict(
            {command.__name__: command for command in (train, evaluate, tune, plot, video, report)},
            prog="maml-rl",
            args=arguments,
        )
    except (RuntimeError, ArithmeticError, TimeoutError) as error:  # TimeoutError before OSError, its base
        print(f"maml-rl: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"maml-rl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("maml-rl: interrupted", file=sys.stderr)
        return 130
    return 0
