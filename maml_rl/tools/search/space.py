"""What a search varies: ``NAME=loguniform(LOW,HIGH)`` and the like, as a user types it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maml_rl.tools.checks import plain

FORMS = "loguniform(LOW,HIGH), uniform(LOW,HIGH), randint(LOW,HIGH) or choice(A,B,...)"


class SpaceError(ValueError):
    """A search's space is not one."""


@dataclass(frozen=True)
class Dimension:
    """One field that is varied.

    Attributes:
        kind: ``loguniform``, ``uniform``, ``randint`` (HIGH is included) or ``choice``.
        values: the two bounds, or what is chosen from.
    """

    name: str
    kind: str
    values: tuple[Any, ...]

    def domain(self) -> Any:
        """As Ray Tune knows it."""
        from ray import tune

        if self.kind == "choice":
            return tune.choice(self.choices())
        low, high = self.values
        return tune.randint(low, high + 1) if self.kind == "randint" else getattr(tune, self.kind)(low, high)

    def choices(self) -> list[Any]:
        """What is chosen from; lists as text, for search algorithms know numbers and text only."""
        return [_as_text(value) for value in self.values]

    def encoded(self, value: Any) -> Any:
        """What is drawn for a field's value."""
        return _as_text(plain(value))

    def decoded(self, value: Any) -> Any:
        """The field's value for one that was drawn."""
        if self.kind != "choice":
            return value
        return next((known for known in self.values if _as_text(known) == value), value)

    def clipped(self, value: Any) -> Any:
        """The nearest value within the bounds."""
        if self.kind == "choice":
            return value
        low, high = self.values
        return min(max(value, low), high)

    def __str__(self) -> str:
        return f"{self.name}={self.kind}({','.join(json.dumps(value) for value in self.values)})"


def _as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, tuple) else value


def parse_space(texts: Sequence[str], names: Sequence[str]) -> list[Dimension]:
    """The dimensions that the texts describe.

    Args:
        names: of the fields that may be varied.

    Raises:
        SpaceError: naming the field, what was given and what is allowed.
    """
    if not texts:
        raise SpaceError(f"space is empty; name at least one field as NAME={FORMS}")
    space: list[Dimension] = []
    for text in texts:
        dimension = _parsed(text)
        if dimension.name not in names:
            raise SpaceError(
                f"space names the field {dimension.name!r}; it must be one of: {', '.join(sorted(names))}"
            )
        if dimension.name in [other.name for other in space]:
            raise SpaceError(f"space names the field {dimension.name!r} twice")
        space.append(dimension)
    return space


def _parsed(text: str) -> Dimension:
    found = re.fullmatch(r"\s*(\w+)\s*=\s*(\w+)\s*\((.*)\)\s*", text)
    if found is None:
        raise SpaceError(f"space is {text!r}; it must be NAME={FORMS}")
    name, kind, inner = found.groups()
    values = tuple(_value(part) for part in _split(inner))
    if kind == "choice":
        if not values:
            raise SpaceError(f"{name} is {text.partition('=')[2]}; a choice needs at least one value")
        return Dimension(name, kind, values)
    if kind not in ("loguniform", "uniform", "randint"):
        raise SpaceError(f"{name} is drawn by {kind!r}; it must be {FORMS}")
    number = int if kind == "randint" else (int, float)
    finite = all(isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if (
        len(values) != 2
        or not finite
        or not values[0] < values[1]
        or (kind == "loguniform" and values[0] <= 0)
    ):
        least = "0 < LOW" if kind == "loguniform" else "LOW"
        what = "integers" if kind == "randint" else "numbers"
        raise SpaceError(
            f"{name} is {kind}({inner}); it must be {kind}(LOW,HIGH) of {what} with {least} < HIGH"
        )
    return Dimension(name, kind, values)


def _split(inner: str) -> list[str]:
    """The parts between commas that are in no brackets or quotes."""
    parts, depth, quoted = [""], 0, False
    for character in inner:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "[({") - (character in "])}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts if inner.strip() else []


def _value(text: str) -> Any:
    """A number, a list as a tuple, True, False or None; everything else is text."""
    text = text.strip()
    words = {"True": True, "False": False, "None": None}
    try:
        return words[text] if text in words else plain(json.loads(text))
    except ValueError:
        return text
