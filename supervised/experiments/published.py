"""A run's evaluation as a result to be published."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from maml_rl.tools.checks import plain
from maml_rl.tools.command_line import option_words, shell_line
from maml_rl.tools.published import RUN, Published, evaluation_now, training_of
from maml_rl.tools.run_directory import RunDirectory
from supervised.experiments.evaluation import Row
from supervised.experiments.presets import get_preset

_CHOSEN_BY_METHOD = ("problem", "method")


def published(
    run: RunDirectory, rows: Sequence[Row], model: Mapping[str, Any], options: Mapping[str, Any]
) -> Published:
    """The record of an evaluation.

    Args:
        model: which one was measured, and its iteration.
        options: of the evaluation, where they differ from their defaults.
    """
    told, training = run.description(), training_of(run)
    # An interrupted run has finished more iterations than its last row tells, which is one of several.
    training["iterations"] = max(training["iterations"], model["iteration"])
    preset, config = told["preset"], told["config"]
    if not config["meta_lr_decay"]:  # else the step sizes are those of a run of as many as were meant
        config = {**config, "iterations": training["iterations"]}
    usual = dataclasses.asdict(get_preset(preset, config["method"]))
    skipped = ("seed", *_CHOSEN_BY_METHOD)
    settings = {
        k: config[k] for k, value in usual.items() if k not in skipped and plain(config.get(k)) != value
    }
    train = ["supervised", "train", preset, "--method", config["method"], "--seed", config["seed"]]
    train += ["--output", RUN, *option_words(settings)]
    if "start_from" in told:
        settings["start_from"] = f"iteration {told['start_from'].get('iteration')}"
        train += ["--start-from", str(told["start_from"].get("path"))]
    return Published(
        program="supervised",
        preset=preset,
        method=config["method"],
        settings=settings,
        protocol={name: value for name, value in options.items() if name != "steps"},
        seed=config["seed"],
        commands=[
            shell_line(*train),
            shell_line("supervised", "evaluate", RUN, *option_words(options)),
        ],
        model=model,
        training=training,
        evaluation=evaluation_now(step_sizes={row.name: row.step_size for row in rows}),
        rows={row.name: row.values for row in rows},
    )
