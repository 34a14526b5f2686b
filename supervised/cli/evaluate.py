"""``supervised evaluate``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.tools.command_line import print_json
from maml_rl.tools.run_directory import RunDirectory
from supervised.cli.train import Device, torch_device
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.presets import PAPER, PRESETS
from supervised.experiments.stored import load_model, stored_experiment
from supervised.learning.trainer import StartingPoint


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
    params = {name: value.to(torch_device(device)) for name, value in params.items()}
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


def _print_rows(config: ExperimentConfig, rows: list[Any], iteration: int) -> None:
    from supervised.experiments.evaluation import markdown_table

    regression = config.problem == "sinusoid"
    print(markdown_table(rows, digits=3 if regression else 2))
    what = (
        "mean squared error" if regression else f"accuracy in percent, {config.ways}-way {config.shots}-shot"
    )
    print(f"({rows[0].values.shape[1]} test tasks, {what} ± 95 % interval; iteration {iteration})")


def _print_paper(preset: str, names: list[str]) -> None:
    for name in dict.fromkeys(names):
        values = PAPER.get((preset, name))
        if values:
            texts = (f"{mean}" + ("" if width is None else f" ± {width}") for mean, width in values)
            regression = PRESETS[preset].problem == "sinusoid"
            steps = " (5-shot, after 1 / 5 / 10 steps)" if regression else ""
            print(f"Finn et al. 2017, {name}{steps}: {' / '.join(texts)}")
