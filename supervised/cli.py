"""The command line: ``supervised train | evaluate | plot | compare | table | search | download``."""

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

from maml_rl.tools.command_line import print_json, run_program, shell_line
from maml_rl.tools.options import explanations, given, option_groups, readable
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.searched import Algorithm, Scheduler
from maml_rl.tools.storage import writable_file
from supervised.experiments.config import METHODS, ExperimentConfig, Method
from supervised.experiments.experiment import Experiment, describe
from supervised.experiments.presets import PAPER, PRESETS, get_preset
from supervised.experiments.stored import (
    load_model,
    resumed_config,
    starting_point,
    stored_evaluations,
    stored_experiment,
)
from supervised.learning.settings import ConfigError, TrainingSettings
from supervised.learning.trainer import StartingPoint

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
        config, stored_data, preset = resumed_config(run, preset, method, output, changes)
        data = data or stored_data
    elif preset is None:
        raise ConfigError(f"preset is missing; it must be one of: {', '.join(PRESETS)}")
    else:
        config = dataclasses.replace(get_preset(preset, method), **changes)
    experiment = Experiment(config, _data(config, data))
    initial = None if start_from is None else starting_point(RunDirectory.open(start_from))
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
    publish: FlagCreatePairsOff[bool] = False,
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
        publish: also write what was trained, how, and each task's values into one file in the folder "results".
        json: print JSON instead of a table.
    """
    from rich.console import Console

    from maml_rl.tools.progress import counting_display
    from supervised.experiments.evaluation import SINUSOID_SHOTS, save_rows
    from supervised.experiments.evaluation import evaluate as run_evaluation
    from supervised.experiments.published import published

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
    with counting_display(Console(stderr=True)) as show:
        rows = run_evaluation(
            experiment,
            params,
            steps=config.test_steps if steps is None else steps,
            episodes=config.test_episodes if episodes is None else episodes,
            seed=seed,
            shots=SINUSOID_SHOTS if shots is None else (shots,),
            on_progress=lambda row, done, total: show(f"evaluating {row}", done, total),
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
    if publish:
        options = {"steps": steps, "episodes": episodes, "seed": seed or None, **given_sizes}
        options["model"] = None if model == "best" else model
        measured = {"which": model, "iteration": info["iteration"]}
        chosen = {name: value for name, value in options.items() if value is not None}
        print(f"published: {published(directory, rows, measured, chosen).save()}", file=sys.stderr)


def plot(run: Positional[str]) -> None:
    """Draw a run's learning curve, its evaluation and, for sinusoids, fits, as PNG, SVG and PDF in its directory.

    Args:
        run: a run directory.
    """
    from maml_rl.tools.pictures import save
    from supervised.views.plots import draw_adaptation, draw_fits, draw_learning_curve

    directory = RunDirectory.open(run)
    with directory.stored():
        files = save(draw_learning_curve(directory.progress()), directory.path / "learning_curve")
        results = directory.path / "evaluation.json"
        experiment = stored_experiment(directory, None)
        if results.exists():
            rows = json.loads(results.read_text())
            regression = experiment.config.problem == "sinusoid"
            curve = draw_adaptation(rows, regression=regression)
            files += save(curve, directory.path / "adaptation_curve")
            if regression:
                fits = draw_fits(experiment.learner, load_model(directory, "best")[0], rows)
                files += save(fits, directory.path / "fits")
    print("\n".join(directory.shown(file.name) for file in files))


def compare(runs: Positional[tuple[str, ...]], *, output: str = "comparison.png") -> None:
    """Draw the evaluations of several runs into one figure per row, as the paper's Figures 3 and 6.

    Args:
        runs: run directories, all evaluated.
        output: the file: .png, .svg or .pdf.
    """
    from maml_rl.tools.pictures import SUFFIXES, save_as
    from maml_rl.tools.run_directory import check_output
    from supervised.views.plots import draw_comparison

    curves = {description["config"]["method"]: rows for description, rows in stored_evaluations(runs)}
    with writable_file(output) as file:
        check_output(file, SUFFIXES)
        save_as(draw_comparison(curves), file)
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
        for description, rows in stored_evaluations(runs)
        for entry in entries(description["preset"], description["config"]["method"], rows)
    ]
    print(markdown(content))
    if output is not None:
        with writable_file(output) as file:
            save_csv(content, file)


def search(
    preset: Positional[str | None] = None,
    *,
    space: tuple[str, ...] = (),
    samples: int | None = None,
    scheduler: Scheduler | None = None,
    algorithm: Algorithm | None = None,
    method: Method | None = None,
    data: Path | None = None,
    device: Device = "cpu",
    output: str | None = None,
    resume: str | None = None,
    address: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Search over fields of the configuration with Ray Tune; every trial is a run directory.

    Best is the highest accuracy on validation tasks at any validation, of sinusoids the least loss. As many trials
    run at once as the cluster holds, each on one CPU (and one GPU with --device cuda). Ctrl-C ends the search;
    --resume goes on with it, without computing anything twice.

    Args:
        preset: the experiment; not needed with --resume.
        space: what is searched: NAME=loguniform(LOW,HIGH), uniform(LOW,HIGH), randint(LOW,HIGH) or choice(A,B,...),
            any number of them; NAME is any of the configuration's fields below.
        samples: configurations to try; 16 unless given.
        scheduler: asha, unless given, which stops what falls behind; pbt, whose worse trials take over the
            parameters of better ones and change their values; or none.
        algorithm: random, unless given, or optuna (an extra of this package).
        method: meta-learner or baseline; by default the preset's.
        data: folder or zip file of the images.
        device: where to compute.
        output: folder of the search, a path or a URI (s3://BUCKET/searches/NAME); by default
            runs/search-PRESET-METHOD-DATE-TIME. Trial 3's run is trial-00003 in it.
        resume: go on with the search in this folder.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        json: print the trials as JSON.
    """
    from maml_rl.tools.ray_start import start_ray
    from maml_rl.tools.search.display import carry_out
    from maml_rl.tools.search.search import Search, check_goes_on, new_search
    from supervised.experiments.searched import SearchedExperiment

    changes = given(fields)
    if resume is None:
        if preset is None:
            raise ConfigError(f"preset is missing; it must be one of: {', '.join(PRESETS)}")
        config = dataclasses.replace(get_preset(preset, method), **changes)
        experiment = Experiment(config, _data(config, data))
        searched = SearchedExperiment(experiment, preset, _torch_device(device))
        wanted = new_search(searched, space, samples, scheduler, algorithm)
        name = f"search-{preset}-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = RunDirectory.free(output or f"runs/{name}")
    else:
        folder = RunDirectory.open(resume)
        told: dict[str, Any] = {
            "preset": preset,
            "space": space,
            "samples": samples,
            "scheduler": scheduler,
            "algorithm": algorithm,
            "method": method,
            "output": output,
            **changes,
        }
        check_goes_on(folder, told)
        experiment = stored_experiment(folder, data)
        searched = SearchedExperiment(experiment, folder.description()["preset"], _torch_device(device))
        wanted = Search.stored(folder, searched)
    wanted.check()
    start_ray(address)
    carry_out(wanted, folder, "supervised", [], fresh=resume is None, json=json)


def download(
    dataset: Positional[Literal["omniglot"]],
    folder: Positional[Path],
) -> None:
    """Fetch Omniglot (14 MB, MIT licence) from its authors' archive and check it.

    Args:
        dataset: omniglot; MiniImagenet's terms do not allow a download by program: see docs/guide/supervised.md.
        folder: where to put the archives; name it afterwards with --data.
    """
    from rich.console import Console

    from maml_rl.tools.progress import counting_display
    from supervised.data.download import fetch_omniglot

    with counting_display(Console(stderr=True)) as show:
        fetch_omniglot(folder, print, on_progress=lambda name, done, total: show(f"{name}, KiB", done, total))


# --- helpers


def _print_rows(config: ExperimentConfig, rows: list[Any], iteration: int) -> None:
    from supervised.experiments.evaluation import markdown_table

    regression = config.problem == "sinusoid"
    print(markdown_table(rows, digits=3 if regression else 2))
    what = (
        "mean squared error" if regression else f"accuracy in percent, {config.ways}-way {config.shots}-shot"
    )
    print(f"({rows[0].values.shape[1]} test tasks, {what} ± 95 % interval; iteration {iteration})")


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
            regression = PRESETS[preset].problem == "sinusoid"
            steps = " (5-shot, after 1 / 5 / 10 steps)" if regression else ""
            print(f"Finn et al. 2017, {name}{steps}: {' / '.join(texts)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 when a run failed, 2 for wrong input, 130 when interrupted."""
    return run_program("supervised", _commands, sys.argv[1:] if arguments is None else arguments)


def _commands(arguments: Sequence[str]) -> dict[str, Any]:
    fields = config_options(arguments)
    plain = (evaluate, plot, compare, table, download)
    commands = {command.__name__: readable(command) for command in plain}
    return commands | {command.__name__: readable(command, fields=fields) for command in (train, search)}
