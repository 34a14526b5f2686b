"""What both programs do around their commands: exit statuses, one-line errors, results as JSON."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from maml_rl.tools.files import strict_json

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
DEBUG = "MAML_RL_DEBUG"
"""Environment variable: let tracebacks through."""


def run_program(
    name: str, commands: Callable[[Sequence[str]], Mapping[str, Any]], arguments: Sequence[str]
) -> int:
    """Run the command that the arguments name; whatever is raised becomes one line on standard error.

    Args:
        commands: makes the commands by name; it is called here so that an interrupt of its imports is one, too.

    Returns:
        The exit status: 0, or 1 when a run failed, 2 for wrong input, 130 when interrupted.
    """
    try:
        made = commands(arguments)
        import tyro

        with _results_apart("--json" in arguments):
            tyro.extras.subcommand_cli_from_dict(
                dict(made), prog=name, args=arguments, config=(tyro.conf.OmitArgPrefixes,)
            )
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        # A time-out is an error of the operating system, by its class only.
        wrong = isinstance(error, ValueError | OSError) and not isinstance(error, TimeoutError)
        return WRONG_INPUT if wrong else FAILED
    return 0


def one_line(error: Exception) -> str:
    """What a user is told of an error."""
    expected = isinstance(error, ValueError | OSError | RuntimeError | ArithmeticError)
    text = " ".join(str(error).split())
    return text if expected and text else f"{type(error).__name__}: {text} ({DEBUG}=1 shows where)"


# --- results

_streams: list[Any] = []


@contextmanager
def _results_apart(active: bool) -> Iterator[None]:
    """While active, standard output is for ``print_json`` alone: what environments print goes to standard error."""
    if not active:
        yield
        return
    _streams.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _streams.pop()


def print_json(value: Mapping[str, Any]) -> None:
    """A result as strict JSON: what is not a finite number is null."""
    print(strict_json(value), file=_streams[-1] if _streams else sys.stdout)


def shell_line(*parts: object) -> str:
    """A command line that a shell reads as these parts."""
    return shlex.join(map(str, parts))


def option_words(options: Mapping[str, Any]) -> list[str]:
    """``--name value`` of each option, as both programs take them; of None, a switch, its name alone."""
    words = []
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, Mapping):
            for key, part in value.items():
                words += [str(key), part if isinstance(part, str) else json.dumps(part)]
        elif isinstance(value, list | tuple):
            words += [str(part) for part in value]
        elif value is not None:
            words.append(str(value))
    return words
