"""Calls of the learner, here or in an actor of its own: errors travel as values, and a lost actor is told apart.

RLlib takes an actor that raised out of service for good, and later calls of it return nothing. So nothing raises
inside the actor: what a method raised comes back as a value and is raised here.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup


class LearnerLostError(RuntimeError):
    """The learner's actor is gone, with its process or its node."""


@dataclass(frozen=True)
class _Raised:
    """What a method raised."""

    error: Exception


def call_learner(group: LearnerGroup, method: str, **kwargs: Any) -> Any:
    """The result of a method of the first learner of ``group``, which leads the others.

    Raises:
        LearnerLostError: the actor died, before the call or in it.
        Exception: what the method raised, as it is.
    """
    results = list(group.foreach_learner(partial(_call, method=method), remote_actor_ids=[0], **kwargs))
    if not results:
        raise LearnerLostError("the learner's actor is out of service")
    if not results[0].ok:
        # From inside the actor nothing raises: this is Ray's word that it is gone.
        cause = results[0].get()
        raise LearnerLostError(f"the learner's actor is gone ({type(cause).__name__})") from cause
    value = results[0].get()
    if isinstance(value, _Raised):
        raise value.error
    return value


def wait_for(pending: Sequence[ray.ObjectRef]) -> Callable[[], list[Any]]:
    """Gives, once they are there, the results of methods of other learners' actors; errors as ``call_learner``."""

    def results() -> list[Any]:
        try:
            return list(ray.get(list(pending)))
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise LearnerLostError(f"a learner's actor is gone ({type(error).__name__})") from error

    return results


def _call(learner: Learner, *, method: str, **kwargs: Any) -> Any:
    try:
        return getattr(learner, method)(**kwargs)
    except Exception as error:
        error.add_note(f"in the learner:\n{traceback.format_exc()}")
        return _Raised(_that_travels(error))


def _that_travels(error: Exception) -> Exception:
    """The error itself, or its text if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an error's own pickling raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
