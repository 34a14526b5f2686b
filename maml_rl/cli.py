"""The command line: ``maml-rl train | evaluate | plot | video | report``."""

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
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from maml_rl.config import TRAINING_FIELDS, MAMLConfig
from maml_rl.presets import EXPERIMENTS, get_experiment
from maml_rl.resources import check_resources

_PLAIN_TYPES = {"env": str, "seed": int}


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
    fields: OmitArgPrefixes[ConfigFields] = ConfigFields(),  # type: ignore[valid-type]  # noqa: B008
    env_config: dict[str, str] | None = None,
    num_env_runners: int | None = None,
    gpus: Literal[0, 1] | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    checkpoint_every: int = 10,
    address: str | None = None,
    json: bool = False,
) -> None:
    """Meta-train a policy. Ctrl-C ends after the present iteration, with a checkpoint.

    Args:
        preset: the experiment to run, or module:Class for an environment of your own; not needed with
            --resume.
        env_config: further arguments of the environment, as NAME VALUE pairs.
        num_env_runners: rollout worker processes; 0 collects in this process. Default: one per core of the
            machine, at most 8.
        gpus: 1 runs the learner as an actor on a GPU.
        iterations: meta-updates in total; default: the preset's.
        seed: the run is a function of its configuration and this number.
        output: run directory; default: runs/PRESET-DATE-TIME.
        resume: continue the run in this directory.
        checkpoint_every: iterations between checkpoints.
        address: Ray cluster to connect to; default: RAY_ADDRESS, else a local Ray.
        json: print the last iteration's metrics as JSON.
    """
    from maml_rl.run_directory import RunDirectory
    from maml_rl.training import TrainingRun, describe, start_ray

    run = None
    if resume is not None:
        run = RunDirectory.open(resume)
        config, preset, stored_iterations = _stored_config(run, preset)
    elif preset is None:
        raise ValueError(f"preset is missing; it must be one of: {', '.join(EXPERIMENTS)}")
    else:
        experiment = get_experiment(preset)
        config, stored_iterations = experiment.make_config(), experiment.iterations
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
    if total < 1 or checkpoint_every < 1:
        raise ValueError(f"iterations is {total}, checkpoint_every is {checkpoint_every}; both must be >= 1")
    config.validate()
    if run is not None and output is not None:
        raise ValueError(f"output is {output}, but a resumed run stays in its directory {run.path}")
    start_ray(address)
    check_resources(config)
    if run is None:
        output = output or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        run = RunDirectory.create(output, describe(config, preset, total))
    started = time.monotonic()
    row = TrainingRun(config, run, preset, total, checkpoint_every, resume=resume is not None)()
    if json:
        _print_json({**row, "run": str(run.path)})
    else:
        print(f"{run.path}: {time.monotonic() - started:.0f} s; next: maml-rl evaluate {run.path}")


def evaluate(
    run: Positional[Path],
    *,
    steps: int = 3,
    episodes: int | None = None,
    tasks: int | None = None,
    seed: int = 0,
    policy: Literal["best", "latest"] = "best",
    json: bool = False,
) -> None:
    """Adapt a trained policy to held-out tasks and print returns after 0 .. STEPS gradient steps.

    Results are also written into the run directory, as adaptation.csv and adaptation.json.

    Args:
        run: a run directory.
        steps: gradient steps.
        episodes: episodes per task and step; default: the paper's protocol for the preset.
        tasks: number of held-out tasks, drawn with --seed; default: the paper's own 40 tasks.
        seed: of the rollouts.
        policy: the policy with the best return after adaptation, or the latest one.
        json: print JSON instead of a table.
    """
    import numpy as np
    from rich.console import Console

    from maml_rl.envs import make_task_env
    from maml_rl.evaluation import evaluate as run_evaluation
    from maml_rl.evaluation import markdown_table
    from maml_rl.policy_file import load_policy
    from maml_rl.rollout import Phase, stream
    from maml_rl.run_directory import RunDirectory

    directory = RunDirectory.open(run)
    loaded = load_policy(directory.policy_path(policy))
    info = loaded.info
    experiment = get_experiment(info["preset"])
    env = make_task_env(
        info["env"],
        experiment.test_episodes if episodes is None else episodes,
        info["horizon"],
        info["env_config"],
    )
    papers_tasks = experiment.test_tasks if tasks is None else None
    if papers_tasks is not None:
        test_tasks = papers_tasks()
    else:
        count = 40 if tasks is None else tasks
        test_tasks = env.sample_tasks(count, np.random.default_rng(stream(seed, Phase.EVALUATION_TASKS)))
    console = Console(stderr=True)
    with console.status(f"evaluating on {len(test_tasks)} tasks") as status:
        result = run_evaluation(
            env,
            loaded.spec,
            loaded.params,
            test_tasks,
            steps=steps,
            inner_lr=info["inner_lr"],
            gamma=info["gamma"],
            gae_lambda=info["gae_lambda"],
            seed=seed,
            on_progress=lambda done: status.update(f"evaluated {done} of {len(test_tasks)} tasks"),
        )
    result.save(directory.path)
    if json:
        _print_json({"run": str(run), "policy": policy, "iteration": info["iteration"], **result.as_dict()})
        return
    rows: dict[str, Sequence[tuple[float, float | None]]] = {
        f"maml_rl, iteration {info['iteration']}": list(zip(result.mean, result.interval, strict=True))
    }
    if papers_tasks is not None:
        rows["Finn et al. 2017"] = experiment.paper
    print(markdown_table(rows))
    print(f"({len(test_tasks)} tasks, {env.num_envs} episodes per step, mean ± 95 % interval over tasks)")


def plot(run: Positional[Path]) -> None:
    """Draw a run's learning curve and, once evaluated, its adaptation curve, as PNG files in the run directory.

    Args:
        run: a run directory.
    """
    from maml_rl.plots import plot_adaptation, plot_learning_curve
    from maml_rl.run_directory import RunDirectory

    directory = RunDirectory.open(run)
    files = [directory.path / "learning_curve.png"]
    plot_learning_curve(directory.progress(), files[0])
    results = directory.path / "adaptation.json"
    if results.exists():
        result = json.loads(results.read_text())
        experiment = get_experiment(directory.description()["preset"])
        files.append(directory.path / "adaptation_curve.png")
        plot_adaptation(result["mean"], result["interval_95"], files[1], paper=experiment.paper)
    print("\n".join(map(str, files)))


def video(
    run: Positional[Path],
    *,
    task: tuple[float, ...] | None = None,
    steps: int = 1,
    output: Path | None = None,
    seed: int = 0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    policy: Literal["best", "latest"] = "best",
) -> None:
    """Film a policy before and after adaptation to a task, side by side. Needs no display.

    Args:
        run: a run directory.
        task: the task's numbers; default: the first of the paper's test tasks.
        steps: gradient steps.
        output: an .mp4 or .gif file; default: video.mp4 in the run directory.
        seed: of the rollouts and the initial state.
        fps: frames per second; default: real time.
        size: width and height of each of the two pictures.
        policy: the policy with the best return after adaptation, or the latest one.
    """
    import numpy as np
    from rich.console import Console

    from maml_rl.run_directory import RunDirectory
    from maml_rl.video import make_video

    directory = RunDirectory.open(run)
    loaded = directory.policy(policy)
    experiment = get_experiment(directory.description()["preset"])
    if task is None and experiment.test_tasks is not None:
        task = tuple(np.ravel(experiment.test_tasks()[0]).tolist())
    with Console(stderr=True).status("opening the environment") as status:
        made = make_video(
            loaded,
            output or directory.path / "video.mp4",
            episodes=experiment.test_episodes,
            task=task,
            steps=steps,
            seed=seed,
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
    from maml_rl.report import write_report
    from maml_rl.run_directory import RunDirectory

    write_report([RunDirectory.open(run) for run in runs], output)
    print(output)


# --- helpers


def _stored_config(run: Any, preset: str | None) -> tuple[MAMLConfig, str, int]:
    stored = run.description()
    if preset not in (None, stored["preset"]):
        raise ValueError(f"preset is {preset!r}, but {run.path} holds a run of {stored['preset']!r}")
    config = MAMLConfig()
    for name, value in stored["config"].items():
        setattr(config, name, value)
    config.hidden_sizes = tuple(config.hidden_sizes)
    return config, stored["preset"], stored["iterations"]


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
            {"train": train, "evaluate": evaluate, "plot": plot, "video": video, "report": report},
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
