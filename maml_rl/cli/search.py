"""``maml-rl search``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.cli.train import new_plan_of, place_learner, train_options
from maml_rl.envs.naming import naming_options
from maml_rl.experiments.methods import MethodName
from maml_rl.experiments.plan import stored_plan
from maml_rl.experiments.run import Run
from maml_rl.experiments.search import (
    Algorithm,
    Scheduler,
    Search,
    Show,
    TrialResult,
    run_search,
    save_results,
)
from maml_rl.rllib.resources import check_resources
from maml_rl.rllib.rules import TRAINING_FIELDS
from maml_rl.tools.command_line import print_json, shell_line
from maml_rl.tools.options import given
from maml_rl.tools.ray_start import start_ray
from maml_rl.tools.run_directory import RunError
from maml_rl.tools.search_space import FORMS, parse_space
from maml_rl.views.searches import draw_search

search_options = train_options
_SHOWN = 12
"""Trials in the live table."""


def search(
    preset: Positional[str | None] = None,
    *,
    space: tuple[str, ...] = (),
    samples: int | None = None,
    scheduler: Scheduler | None = None,
    algorithm: Algorithm | None = None,
    method: MethodName | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    env_config: dict[str, str] | None = None,
    output: str | None = None,
    resume: str | None = None,
    env: str | None = None,
    checkpoint_every: int | None = None,
    num_env_runners: int = 0,
    num_learners: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Search over fields of the configuration with Ray Tune; every trial is a run directory.

    Best is the highest return after adaptation, averaged over the last ten iterations. As many trials run at once
    as the cluster holds. Ctrl-C ends the search; --resume goes on with it, without computing anything twice.

    Args:
        preset: the experiment, or module:Class for an environment of your own; not needed with --resume.
        space: what is searched: NAME=loguniform(LOW,HIGH), uniform(LOW,HIGH), randint(LOW,HIGH) or choice(A,B,...),
            any number of them; NAME is any of the configuration's fields below.
        samples: configurations to try; 16 unless given.
        scheduler: asha, unless given, which stops what falls behind; pbt, whose worse trials take over the
            parameters of better ones and change their values; or none.
        algorithm: random, unless given, or optuna (an extra of this package).
        method: maml, unless another is given.
        iterations: meta-updates of a trial that is not stopped; by default the preset's number.
        seed: of the drawn configurations and of every trial; 0 unless given.
        env_config: further arguments of the environment, as NAME VALUE pairs.
        output: folder of the search, a path or a URI (s3://BUCKET/searches/NAME); by default
            runs/search-PRESET-DATE-TIME. Trial 3's run is trial-00003 in it.
        resume: go on with the search in this folder.
        env: with --resume, the environment where it is not the package's own: files do not choose what is imported.
        checkpoint_every: iterations between checkpoints; 10 unless given.
        num_env_runners: rollout worker processes of each trial; 0 collects in the trial's own process.
        num_learners: learner actors of each trial among which the tasks are shared out; 0, the default, learns in
            the trial's own process.
        gpus: this many learners of each trial, each an actor with a GPU of its own.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        json: print the trials as JSON.
    """
    changes = given(fields) | ({} if seed is None else {"seed": seed})
    if resume is None:
        plan = new_plan_of(preset, method, changes, env, env_config)
        wanted = Search(
            plan,
            parse_space(space, TRAINING_FIELDS),
            16 if samples is None else samples,
            scheduler or "asha",
            algorithm or "random",
        )
        if iterations is not None:
            plan.iterations = iterations
        if checkpoint_every is not None:
            plan.checkpoint_every = checkpoint_every
        name = f"search-{plan.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = Run.free(output or f"runs/{name}")
    else:
        folder = Run.open(resume)
        told: dict[str, Any] = {
            "preset": preset,
            "space": space,
            "samples": samples,
            "scheduler": scheduler,
            "algorithm": algorithm,
            "method": method,
            "iterations": iterations,
            "env_config": env_config,
            "output": output,
            **changes,
        }
        for name, value in told.items():
            if name != "module" and value not in (None, ()):
                raise RunError(
                    f"{name} is {value!r}, but the search in {resume} is gone on with as it was begun"
                )
        wanted = _stored(folder, env, changes.get("module"))
        plan = wanted.plan
    place_learner(plan.config, num_env_runners, num_learners, gpus)
    wanted.check()
    start_ray(address)
    check_resources(plan.config)
    if resume is None:
        folder.begin(wanted.description())
    started = time.monotonic()
    with folder.stored(), folder.writing():
        with _display(wanted) as show:
            trials = run_search(wanted, folder, show)
        files = [
            save_results(trials, wanted.space, folder.path),
            *draw_search(trials, wanted.space, folder.path),
        ]
    if json:
        print_json({"search": str(folder.place), "trials": [_as_json(trial) for trial in trials]})
        return
    Console().print(_table(wanted, trials, "the trials, best first", at_work="interrupted"))
    print("\n".join(folder.shown(file.name) for file in files))
    names = naming_options(plan.config.env, plan.config.module)
    unfinished = sum(not trial.finished for trial in trials) + wanted.samples - len(trials)
    if unfinished > 0:
        command = shell_line("maml-rl", "search", "--resume", folder.place, *names)
        print(
            f"interrupted with {unfinished} of {wanted.samples} trials not at their end; continue with: {command}"
        )
    if not trials or not math.isfinite(trials[0].score):
        return
    best = trials[0]
    values = ", ".join(f"{name} {_text(value)}" for name, value in best.values.items())
    print(
        f"best of {len(trials)} after {time.monotonic() - started:.0f} s: {values} (score {best.score:.2f}); next: "
        + shell_line("maml-rl", "evaluate", best.place, *names)
    )


# --- steps


def _stored(folder: Run, env: str | None, module: str | None) -> Search:
    """The search that a folder holds."""
    stored = folder.description()
    missing = {"space", "samples", "scheduler", "algorithm"} - stored.keys()
    if missing:
        raise RunError(f"{folder.shown('config.json')} lacks {min(missing)}: it is not of a search")
    if not isinstance(stored["space"], list) or not all(isinstance(text, str) for text in stored["space"]):
        raise RunError(f"{folder.shown('config.json')}: space must be a list of NAME={FORMS}")
    plan = stored_plan(folder, env, module)
    space = parse_space(stored["space"], TRAINING_FIELDS)
    return Search(plan, space, stored["samples"], stored["scheduler"], stored["algorithm"])


@contextmanager
def _display(wanted: Search) -> Iterator[Show]:
    """A table of the trials that is kept up to date; a line per trial at its end where nobody watches."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def say(trials: Mapping[int, TrialResult], ended: int | None) -> None:
            if ended is not None:
                trial = trials[ended]
                values = ", ".join(f"{name} {_text(value)}" for name, value in trial.values.items())
                outcome = f"failed: {trial.error}" if trial.error else f"score {trial.score:.2f}"
                console.print(
                    f"trial {ended}: {outcome}, iteration {trial.iteration}/{wanted.plan.iterations}: {values}",
                    soft_wrap=True,
                    markup=False,
                    highlight=False,
                )

        yield say
        return
    with Live(console=console, refresh_per_second=2) as live:

        def draw(trials: Mapping[int, TrialResult], ended: int | None) -> None:
            best = sorted(trials.values(), key=lambda trial: (trial.finished, -trial.score))
            finished = sum(trial.finished for trial in best)
            live.update(_table(wanted, best[:_SHOWN], f"{finished} of {wanted.samples} trials ended"))

        yield draw


def _table(wanted: Search, trials: Sequence[TrialResult], title: str, at_work: str = "runs") -> Table:
    table = Table(title=title)
    for name in ("trial", "score", "iteration", *(dimension.name for dimension in wanted.space), ""):
        table.add_column(name, justify="right" if name in ("score", "iteration") else "left")
    for trial in trials:
        state = trial.error or ("" if trial.finished else at_work)
        values = [_text(trial.values[dimension.name]) for dimension in wanted.space]
        table.add_row(str(trial.number), f"{trial.score:.2f}", str(trial.iteration), *values, state)
    return table


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_json(trial: TrialResult) -> dict[str, Any]:
    return {**vars(trial), "place": str(trial.place), "values": dict(trial.values)}
