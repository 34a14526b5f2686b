"""From what a configuration names to the class, function or id that is meant; nothing is called here.

Files never choose code. An environment that is not the package's own is imported only where a person named it, in a
program or on a command line: see ``check_may_import``.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium

from maml_rl.tools.user_folder import USER_FOLDER


class UntrustedEnvError(ValueError):
    """A file names an environment that would have to be imported, and nobody else named it."""


def is_own(name: Any) -> bool:
    """Whether a name is the id of one of the package's own task families."""
    return isinstance(name, str) and name in gymnasium.registry and name.startswith("maml_rl/")


def check_may_import(stored: Any, named: str | None) -> None:
    """Refuse an environment that a file names, unless it is the package's own or a person named it, too.

    Raises:
        UntrustedEnvError: saying how to name it.
    """
    if not is_own(stored) and (named is None or stored != named):
        raise UntrustedEnvError(
            f"env is {stored!r}, which is not one of the package's own, and files do not choose what is imported; "
            f"if you trust it, name it yourself: --env {stored}"
        )


def naming_options(env: Any, module: Any = None) -> tuple[str, ...]:
    """What a later command has to say of an environment and a network that are not the package's own."""
    of_env = () if is_own(env) else ("--env", str(env))
    return of_env if module is None else (*of_env, "--module", str(module))


def find_target(env: Any) -> Any:
    """The class or function that ``env`` is or names, or the id of a registered environment.

    Args:
        env: a class, a function, ``"module:attribute"``, ``"module:id"`` or ``"id"``.

    Raises:
        ValueError: it names nothing, or something that is no environment.
    """
    if callable(env):
        return env
    target = _named(env) if isinstance(env, str) else None
    if isinstance(target, type):
        fits = issubclass(target, gymnasium.Env | gymnasium.vector.VectorEnv)
    else:  # other callables, such as those written in C, are not known to make environments
        fits = isinstance(target, types.FunctionType | str)
    if fits:
        return target
    raise ValueError(
        f"environment is {env!r}, which is {target!r}; it must be a gymnasium.Env class, a function that makes "
        "one, or a registered id"
    )


def find_factory(env: Any) -> Callable[..., Any]:
    """What makes a single-episode environment; arguments as in ``find_target``."""
    target = find_target(env)
    if isinstance(target, str):
        # The checks here replace Gymnasium's checker, and the horizon its time limit.
        return partial(gymnasium.make, target, disable_env_checker=True, max_episode_steps=-1)
    return target


def find_network(name: str) -> Any:
    """The class or function ``"module:attribute"`` that makes a policy's network.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = name.rpartition(":")
    if not module:
        raise ValueError(f"module is {name!r}; it must be written package.module:Class")
    found = getattr(_import(name, module, "module"), attribute, None)
    if not callable(found):
        raise ValueError(f"module is {name!r}, but {module!r} has no class or function {attribute!r}")
    return found


def _named(name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    found = getattr(_import(name, module), attribute, None) if module else None
    if found is not None:
        return found
    if attribute in gymnasium.registry:
        return attribute
    if module:
        raise ValueError(f"environment is {name!r}, but {module!r} has no {attribute!r}")
    raise ValueError(f"environment is {name!r}; no environment of this name is registered")


def _import(name: str, module: str, field: str = "environment") -> types.ModuleType:
    """A module; those of the user's folder are found last, so that no file there stands in for an installed one."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{field} is {name!r}, but {module!r} is not the full name of a module")
    folder = os.environ.get(USER_FOLDER, os.getcwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise ValueError(
            f"{field} is {name!r}, but {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
