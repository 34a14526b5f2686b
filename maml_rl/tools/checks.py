"""What a number of a configuration or an option may be, and the sentence that refuses another."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Rule = tuple[str, Callable[[Any], bool]]
"""What is allowed, in words, and whether a plain value is."""


def plain(value: Any) -> Any:
    """Numbers of numpy as Python's, lists and arrays as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def checked(name: str, value: Any, rule: Rule, error: type[ValueError] = ValueError) -> Any:
    """The value as a plain one.

    Raises:
        error: naming the field, the value and what is allowed.
    """
    allowed, accepts = rule
    found = plain(value)
    if not accepts(found):
        raise error(f"{name} is {value!r}; it must be {allowed}")
    return found


def is_number(value: Any) -> bool:
    """A finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """An integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def integer_of_at_least(least: int) -> Rule:
    return f"an integer of at least {least}", lambda v: is_integer(v) and v >= least


def one_of(allowed: tuple[str, ...]) -> Rule:
    return f"one of: {', '.join(allowed)}", lambda v: isinstance(v, str) and v in allowed


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The nearest of the known names, in parentheses; nothing if none is near."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


COUNT: Rule = ("a positive integer", lambda v: is_integer(v) and v >= 1)
COUNT_OR_ZERO: Rule = ("an integer >= 0", lambda v: is_integer(v) and v >= 0)
BOOL: Rule = ("True or False", lambda v: isinstance(v, bool))
POSITIVE: Rule = ("a positive number", lambda v: is_number(v) and v > 0)
NON_NEGATIVE: Rule = ("a number >= 0", lambda v: is_number(v) and v >= 0)
UNIT: Rule = ("a number in [0, 1]", lambda v: is_number(v) and 0 <= v <= 1)
OPEN_UNIT: Rule = ("a number in (0, 1)", lambda v: is_number(v) and 0 < v < 1)
FRACTION: Rule = ("a number in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)
SEED: Rule = ("an integer from 0 to 2^32 - 1", lambda v: is_integer(v) and 0 <= v < 2**32)
