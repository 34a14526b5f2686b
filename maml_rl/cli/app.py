"""The program ``maml-rl``: train | search | evaluate | tune-inner-lr | plot | video | report | export."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from maml_rl.tools.command_line import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 when a run failed, 2 for wrong input, 130 when interrupted."""
    return run_program("maml-rl", _commands, sys.argv[1:] if arguments is None else arguments)


def _commands(arguments: Sequence[str]) -> Mapping[str, Any]:
    import logging

    from maml_rl.cli.evaluate import evaluate, tune_inner_lr
    from maml_rl.cli.views import export, plot, report, video
    from maml_rl.tools.options import readable

    # The commands that train take the configuration's fields as options, and the configuration is RLlib's:
    # importing it takes seconds, which a help page of all commands must not.
    training: dict[str, Any] = {"train": _train, "search": _search}
    if "train" in arguments:
        from maml_rl.cli.train import train, train_options

        training["train"] = readable(train, fields=train_options(arguments))
    if "search" in arguments:
        from maml_rl.cli.search import search, search_options

        training["search"] = readable(search, fields=search_options(arguments))
    # RLlib announces its internals at every start; what concerns the user is raised as an error. After the imports:
    # they set it, too.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    others = (evaluate, tune_inner_lr, plot, video, report, export)
    return training | {command.__name__.replace("_", "-"): readable(command) for command in others}


def _train() -> None:
    """Meta-train a policy. Ctrl-C ends after the present iteration, with a checkpoint."""


def _search() -> None:
    """Search over fields of the configuration with Ray Tune; every trial is a run directory."""
