"""The program ``maml-rl``: train | evaluate | tune | plot | video | report."""

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

    from maml_rl.cli.evaluate import evaluate, tune
    from maml_rl.cli.train import train, train_options
    from maml_rl.cli.views import plot, report, video
    from maml_rl.tools.options import readable

    # RLlib announces its internals at every start; what concerns the user is raised as an error.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    others = (evaluate, tune, plot, video, report)
    return {
        "train": readable(train, fields=train_options(arguments)),
        **{command.__name__: readable(command) for command in others},
    }
