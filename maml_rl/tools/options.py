"""Command-line options made from what is written anyway: a configuration's types, docstrings and values."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import docstring_parser
import tyro

_NAMES = {float: "FLOAT", int: "INT", str: "TEXT", Path: "PATH", bool: "{True,False}"}


def explanations(*documented: Any) -> dict[str, str]:
    """What the docstrings of classes or functions say of each argument or attribute, each on one line.

    Without marks of literals; and a percent sign, which would begin a format, is written as two.
    """
    return {
        entry.arg_name: " ".join((entry.description or "").split()).replace("``", "").replace("%", "%%")
        for source in documented
        for entry in docstring_parser.parse(inspect.getdoc(source) or "").params
    }


def option_groups(
    groups: Mapping[str, Iterable[str]],
    hints: Mapping[str, Any],
    texts: Mapping[str, str],
    defaults: Mapping[str, Any],
) -> type:
    """A dataclass of dataclasses, one per group, with an option per field that is None unless it is given.

    Args:
        groups: fields by title.
        hints: type of each field.
        texts: explanation of each field.
        defaults: shown; what is not given is left to the caller.
    """
    members = []
    for title, names in groups.items():
        fields = [
            (name, _option(hints[name], texts[name], _shown(defaults[name])), dataclasses.field(default=None))
            for name in names
        ]
        group = dataclasses.make_dataclass(title.title().replace(" ", "").replace("-", ""), fields)
        members.append((title.replace(" ", "_").replace("-", "_"), group))
    return dataclasses.make_dataclass("Fields", members)


def given(fields: Any) -> dict[str, Any]:
    """The options of ``option_groups`` that were given."""
    groups = vars(fields).values()
    return {name: value for group in groups for name, value in vars(group).items() if value is not None}


def readable(command: Callable[..., None], **types_of: Any) -> Callable[..., None]:
    """A command whose help names the kind of value of each optional argument, and not that it may be None.

    Args:
        types_of: arguments whose type is known only now.
    """
    signature, texts = inspect.signature(command), explanations(command)
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in signature.parameters.items():
        if name in types_of:
            hints[name] = Annotated[types_of[name], tyro.conf.arg(name="")]
        else:
            hints[name] = _argument(parameter, hints[name], texts[name])

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        command(*args, **kwargs)

    del wrapped.__wrapped__  # it would be asked instead
    wrapped.__annotations__ = hints
    parameters = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


def _argument(parameter: inspect.Parameter, hint: Any, text: str) -> Any:
    """An argument of a command. Only defaults that are values are shown: what None stands for, the text says."""
    default = parameter.default
    behaviour = f"(default: {_shown(default)})"
    if default is inspect.Parameter.empty or default is None or default is False:
        behaviour = ""
    if default is False:  # a flag
        return Annotated[hint, tyro.conf.arg(help=text, help_behavior_hint=behaviour)]
    is_option = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    metavar = _metavar(hint) if is_option else parameter.name.upper()
    return Annotated[hint, tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint=behaviour)]


def _option(hint: Any, text: str, shown: str) -> Any:
    """A field of a configuration; None stands for not given."""
    behaviour = f"(default: {shown})" if shown else ""
    return Annotated[
        hint | None, tyro.conf.arg(metavar=_metavar(hint), help=text, help_behavior_hint=behaviour)
    ]


def _shown(value: Any) -> str:
    """A default as it would be typed; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(hint: Any) -> str:
    """How a value of a type is written in a usage line."""
    if get_origin(hint) is Annotated:
        return _metavar(get_args(hint)[0])
    if get_origin(hint) in (typing.Union, types.UnionType):
        return _metavar(next(part for part in get_args(hint) if part is not type(None)))
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if get_origin(hint) is dict:
        return "NAME VALUE [NAME VALUE ...]"
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        one = _metavar(parts[0])
        return f"{one} [{one} ...]" if parts[-1] is Ellipsis else " ".join(map(_metavar, parts))
    return _NAMES[hint]
