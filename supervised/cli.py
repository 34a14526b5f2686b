"""The command line: ``supervised train | evaluate | plot | compare | table | tune | download``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.command_line import print_json, run_program, shell_line
from maml_rl.tools.options import explanations, given, option_groups, readable
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.storage import writable_file
from supervised.experiments.config import METHODS, ExperimentConfig, Method
from supervised.experiments.experiment import Experiment
from supervised.experiments.presets import PAPER, PRESETS, get_preset
from supervised.learning.settings import ConfigError, TrainingSettings
from supervised.learning.trainer import StartingPoint
from supervised.models.model_file import MODEL, load

Device = Literal["cpu", "cuda"]


GROUPS = {
    "tasks": ("ways", "shots", "query"),
    "images": ("image_size", "validation_fraction", "test_fraction"),
    "adaptation": ("inner_lr", "inner_steps", "learn_inner_lr", "logit_scale"),
    "network": ("hidden_sizes", "filters", "adapt_norm", "context_size", "regularisation"),
    "training": ("iterations", "meta_batch_size", "meta_lr", "meta_lr_decay", "gradient_clip", "seed"),
    "measurement": (
        *("report_every", "validate_every", "validation_episodes", "test_steps", "test_episodes"),
    ),
    "computation": ("tasks_per_chunk", "precision", "capture_graph"),
}


def config_options(arguments: Sequence[str]) -> type:
    """The configuration's fields as options, with the defaults of the preset and method that are named."""
    preset = next((word for word in arguments if word in PRESETS), None)
    method = next((b for a, b in itertools.pairwise(arguments) if a == "--method"), None)
    config = ExperimentConfig()
    if preset is not None:
        known = method if method in METHODS[PRESETS[preset].problem] else None
        config = get_preset(preset, typing.cast(Method | None, known))
    texts = explanations(TrainingSettings, ExperimentConfig)
    return option_groups(GROUPS, typing.get_type_hints(ExperimentConfig), texts, dataclasses.asdict(config))


def train(
    preset: Positional[str | None] = None,
    *,
    method: Method | None = None,
    data: Path | None = None,
    device: Device = "cpu",
    output: str | None = None,
    resume: str | None = None,
    start_from: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Meta-train on one of the paper's problems. Ctrl-C ends after the present iteration, with a checkpoint.

    The defaults shown are those of the preset that is named: see "supervised train PRESET --help".

    Args:
        preset: the experiment; not needed with --resume.
        method: meta-learner or baseline; by default the preset's.
        data: folder or zip file of the images; by default what SUPERVISED_OMNIGLOT or SUPERVISED_MINIIMAGENET
            names.
        device: where to compute.
        output: run directory, a path or a URI (s3://BUCKET/runs/NAME); by default runs/PRESET-METHOD-DATE-TIME.
        resume: continue the run in this directory, bit for bit as if it had not stopped.
        start_from: begin with the latest model of this run directory, of a network of the same shape but for
            the last layer, which begins at zero for another number of ways. Learned step sizes begin at zero for
            layers that the other run did not adapt.
        json: print the last row of progress.csv as JSON.
    """
    from supervised.experiments.training import TrainingRun

    changes = given(fields)
    run = None
    if resume is not None and start_from is not None:
        raise ConfigError(f"start_from is {start_from}, but the run in {resume} is resumed: it has a model")
    if resume is not None:
        run = RunDirectory.open(resume)
        config, stored_data, preset = _resumed(run, preset, method, output, changes)
        data = data or stored_data
    elif preset is None:
        raise ConfigError(f"preset is missing; it must be one of: {', '.join(PRESETS)}")
    else:
        config = dataclasses.replace(get_preset(preset, method), **changes)
    experiment = Experiment(config, _data(config, data))
    initial = None if start_from is None else _starting_point(RunDirectory.open(start_from))
    trainer = experiment.trainer(_torch_device(device), None if initial is None else initial[0])
    if run is None:
        name = f"{preset}-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
        description = describe(experiment, preset)
        if initial is not None:
            description["start_from"] = {"path": start_from, "iteration": initial[1]}
        run = RunDirectory.create(output or f"runs/{name}", description)
    started = time.monotonic()
    validate = experiment.problem.validate
    row = TrainingRun(trainer, validate, config, run, resume=resume is not None)()
    if json:
        print_json({**row, "run": str(run.place)})
        return
    line = f"{run.place}: {time.monotonic() - started:.0f} s"
    if trainer.iteration >= config.iterations:  # an interrupted run has said how to go on
        line += f"; next: {shell_line('supervised', 'evaluate', run.place)}"
    print(line)


def evaluate(
    run: Positional[str],
    *,
    steps: int | None = None,
    shots: int | None = None,
    ways: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    model: Literal["best", "latest"] = "best",
    data: Path | None = None,
    device: Device = "cpu",
    json: FlagCreatePairsOff[bool] = False,
) -> None:
    """Adapt a trained model to test tasks; print loss or accuracy after 0 .. STEPS gradient steps.

    Results are also written into the run directory, as evaluation.csv and evaluation.json; those of --ways
    and --shots as evaluation-10way-5shot.csv and so on.

    Args:
        run: a run directory.
        steps: gradient steps; by default test_steps of the run.
        shots: support examples per class; by default the run's, or for sinusoids 5, 10 and 20.
        ways: classes per task; by default the run's. With another number the last layer begins at zero.
        episodes: test tasks; by default test_episodes of the run.
        seed: of the test tasks.
        model: the best by validation, or the latest.
        data: folder or zip file of the images; by default the one that the run was trained with.
        device: where to compute.
        json: print JSON instead of a table.
    """
    from rich.console import Console

    from supervised.experiments.evaluation import SINUSOID_SHOTS, save_rows
    from supervised.experiments.evaluation import evaluate as run_evaluation

    directory = RunDirectory.open(run)
    experiment = stored_experiment(directory, data)
    params, info = load_model(directory, model)
    start = StartingPoint(params, experiment.few_shot_learner.network.adapted)
    given_sizes: dict[str, Any] = {"ways": ways, "shots": shots}
    sizes = {name: value for name, value in given_sizes.items() if value is not None}
    config = dataclasses.replace(experiment.config, **sizes)
    experiment = dataclasses.replace(experiment, config=config)
    if "ways" in sizes:
        params = start.for_network(experiment.learner)
    params = {name: value.to(_torch_device(device)) for name, value in params.items()}
    with Console(stderr=True).status("evaluating") as status:
        rows = run_evaluation(
            experiment,
            params,
            steps=config.test_steps if steps is None else steps,
            episodes=config.test_episodes if episodes is None else episodes,
            seed=seed,
            shots=SINUSOID_SHOTS if shots is None else (shots,),
            on_progress=lambda row: status.update(f"evaluating {row}"),
        )
    other = "".join(f"-{value}{name.removesuffix('s')}" for name, value in sizes.items())
    if json:
        result = [row.as_dict() for row in rows]
        print_json({"run": run, "model": model, "iteration": info["iteration"], "rows": result})
    else:
        _print_rows(config, rows, info["iteration"])
        if not sizes:
            _print_paper(directory.description()["preset"], [config.method, *(row.name for row in rows)])
    with directory.stored():  # after the result was shown: a full disk does not take it away
        save_rows(rows, directory.path, f"evaluation{other}")


def plot(run: Positional[str]) -> None:
    """Draw a run's learning curve, its evaluation and, for sinusoids, fits, as PNG files in its directory.

    Args:
        run: a run directory.
    """
    from supervised.views.plots import plot_adaptation, plot_fits, plot_learning_curve

    directory = RunDirectory.open(run)
    files = [directory.path / "learning_curve.png"]
    with directory.stored():
        plot_learning_curve(directory.progress(), files[0])
        results = directory.path / "evaluation.json"
        experiment = stored_experiment(directory, None)
        if results.exists():
            rows = json.loads(results.read_text())
            files.append(directory.path / "adaptation_curve.png")
            plot_adaptation(rows, files[-1], regression=experiment.config.problem == "sinusoid")
            if experiment.config.problem == "sinusoid":
                files.append(directory.path / "fits.png")
                plot_fits(experiment.learner, load_model(directory, "best")[0], rows, files[-1])
    print("\n".join(directory.shown(file.name) for file in files))


def compare(runs: Positional[tuple[str, ...]], *, output: str = "comparison.png") -> None:
    """Draw the evaluations of several runs into one figure per row, as the paper's Figures 3 and 6.

    Args:
        runs: run directories, all evaluated.
        output: the PNG file.
    """
    from supervised.views.plots import plot_comparison

    curves = {description["config"]["method"]: rows for description, rows in _evaluations(runs)}
    with writable_file(output) as file:
        plot_comparison(curves, file)
    print(output)


def table(runs: Positional[tuple[str, ...]], *, output: str | None = None) -> None:
    """Print the evaluations of several runs beside the paper's values, as its Tables 1, 2 and 3.

    Args:
        runs: run directories, all evaluated.
        output: a CSV file to write, too.
    """
    from supervised.views.tables import entries, markdown, save_csv

    content = [
        entry
        for description, rows in _evaluations(runs)
        for entry in entries(description["preset"], description["config"]["method"], rows)
    ]
    print(markdown(content))
    if output is not None:
        with writable_file(output) as file:
            save_csv(content, file)


def tune(
    preset: Positional[str],
    search: Positional[tuple[str, ...]],
    *,
    method: Method | None = None,
    samples: int = 8,
    data: Path | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Search over fields of the configuration with Ray Tune; best by validation.

    Args:
        preset: the experiment.
        search: FIELD=LOW..HIGH (log-uniform) or FIELD=A,B,C (choice), any number of them.
        method: meta-learner or baseline.
        samples: configurations to try.
        data: folder or zip file of the images.
        json: print JSON.
    """
    from supervised.experiments.tuning import search_space, tune_config

    changes = given(fields)
    config = dataclasses.replace(get_preset(preset, method), **changes)
    space = search_space(config, search)
    trials = tune_config(Experiment(config, _data(config, data)), space, samples)
    if json:
        print_json({"trials": trials})
        return
    for trial in trials:
        values = ", ".join(f"{name} {value}" for name, value in trial["config"].items())
        print(f"{trial['score']:.4f}: {values}" + (f" ({trial['error']})" if trial["error"] else ""))


def download(
    dataset: Positional[Literal["omniglot"]],
    folder: Positional[Path],
) -> None:
    """Fetch Omniglot (14 MB, MIT licence) from its authors' archive and check it.

    Args:
        dataset: omniglot; MiniImagenet's terms do not allow a download by program: see the README.
        folder: where to put the archives; name it afterwards with --data.
    """
    from supervised.data.download import fetch_omniglot

    fetch_omniglot(folder, print)


# --- helpers


def _print_rows(config: ExperimentConfig, rows: list[Any], iteration: int) -> None:
    from supervised.experiments.evaluation import markdown_table

    regression = config.problem == "sinusoid"
    print(markdown_table(rows, digits=3 if regression else 2))
    what = (
        "mean squared error" if regression else f"accuracy in percent, {config.ways}-way {config.shots}-shot"
    )
    print(f"({rows[0].values.shape[1]} test tasks, {what} ± 95 % interval; iteration {iteration})")


def describe(experiment: Experiment, preset: str) -> dict[str, Any]:
    """``config.json``'s content."""
    return {
        "preset": preset,
        "config": dataclasses.asdict(experiment.config),
        "data": None if experiment.data is None else str(experiment.data.absolute()),
        "started": time.strftime("%FT%T%z"),
    }


def stored_experiment(run: RunDirectory, data: Path | None) -> Experiment:
    """The experiment of a run directory."""
    stored = run.description()
    config = ExperimentConfig.from_dict(stored["config"])
    return Experiment(config, data or (Path(stored["data"]) if stored["data"] else None))


def load_model(run: RunDirectory, which: Literal["best", "latest"]) -> tuple[Params, dict[str, Any]]:
    """Meta-parameters, and with them their iteration."""
    file = load(run.path / MODEL if which == "best" else run.checkpoint)
    return file.params, file.info


def _starting_point(run: RunDirectory) -> tuple[StartingPoint, int]:
    """The latest model of a run, and its iteration."""
    params, info = load_model(run, "latest")
    learner = stored_experiment(run, None).few_shot_learner
    return StartingPoint(params, learner.network.adapted), info["iteration"]


def _evaluations(runs: Sequence[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Description and evaluation of each run."""
    if not runs:
        raise ConfigError("runs is empty; name at least one run directory")
    result = []
    for place in runs:
        run = RunDirectory.open(place)
        rows = run.path / "evaluation.json"
        if not rows.exists():
            raise ConfigError(f"{place} is not evaluated; run: {shell_line('supervised', 'evaluate', place)}")
        result.append((run.description(), json.loads(rows.read_text())))
    return result


def _resumed(
    run: RunDirectory, preset: str | None, method: str | None, output: str | None, given: dict[str, Any]
) -> tuple[ExperimentConfig, Path | None, str]:
    """A stored configuration, with a new number of iterations if one is given; all else must agree."""
    if output is not None:
        raise ConfigError(f"output is {output}, but a resumed run stays in its directory {run.place}")
    experiment = stored_experiment(run, None)
    stored = run.description()["preset"]
    if preset not in (None, stored):
        raise ConfigError(f"preset is {preset!r}, but {run.place} holds a run of {stored!r}")
    values = dataclasses.asdict(experiment.config)
    for name, value in {**given, **({"method": method} if method else {})}.items():
        if name != "iterations" and value != values[name]:
            raise ConfigError(
                f"{name} is {value!r}, but the run in {run.place} was started with {values[name]!r}: "
                "a resumed run keeps its configuration"
            )
    iterations = given.get("iterations", experiment.config.iterations)
    if experiment.config.meta_lr_decay and iterations != experiment.config.iterations:
        raise ConfigError(
            f"iterations is {iterations}, but the step size of this run decays over "
            f"{experiment.config.iterations} iterations"
        )
    return dataclasses.replace(experiment.config, iterations=iterations), experiment.data, stored


def _data(config: ExperimentConfig, given: Path | None) -> Path | None:
    variable = os.environ.get(f"SUPERVISED_{config.problem.upper()}")
    return given or (Path(variable) if variable else None)


def _torch_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU here; allowed here: cpu")
    return torch.device(name)


def _print_paper(preset: str, names: list[str]) -> None:
    for name in dict.fromkeys(names):
        values = PAPER.get((preset, name))
        if values:
            texts = (f"{mean}" + ("" if width is None else f" ± {width}") for mean, width in values)
            steps = " (5-shot, after 1 / 5 / 10 steps)" if preset == "sinusoid" else ""
            print(f"Finn et al. 2017, {name}{steps}: {' / '.join(texts)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 when a run failed, 2 for wrong input, 130 when interrupted."""
    return run_program("supervised", _commands, sys.argv[1:] if arguments is None else arguments)


def _commands(arguments: Sequence[str]) -> dict[str, Any]:
    fields = config_options(arguments)
    plain = (evaluate, plot, compare, table, download)
    commands = {command.__name__: readable(command) for command in plain}
    return commands | {command.__name__: readable(command, fields=fields) for command in (train, tune)}
