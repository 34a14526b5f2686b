"""The program ``supervised``: train | evaluate | plot | compare | table | search | download."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from maml_rl.tools.command_line import run_program
from maml_rl.tools.options import readable
from supervised.cli.download import download
from supervised.cli.evaluate import evaluate
from supervised.cli.search import search
from supervised.cli.train import config_options, train
from supervised.cli.views import compare, plot, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 when a run failed, 2 for wrong input, 130 when interrupted."""
    return run_program("supervised", _commands, sys.argv[1:] if arguments is None else arguments)


def _commands(arguments: Sequence[str]) -> dict[str, Any]:
    fields = config_options(arguments)
    plain = (evaluate, plot, compare, table, download)
    commands = {command.__name__: readable(command) for command in plain}
    return commands | {command.__name__: readable(command, fields=fields) for command in (train, search)}
