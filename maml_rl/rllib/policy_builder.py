"""The policy of a configuration for an environment's spaces."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from gymnasium.spaces import Box, Space

from maml_rl.envs.spaces import head_of
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Policy


class Model(TypedDict):
    """The fields of ``MAMLConfig`` that a policy is made from."""

    hidden_sizes: tuple[int, ...]
    activation: str
    initial_std: float
    min_std: float
    context_size: int


def build_policy(observation_space: Space[Any], action_space: Space[Any], model: Model) -> Policy:
    """The policy for a task family's spaces.

    Raises:
        ValueError: a field does not fit the spaces.
    """
    head = head_of(action_space, initial_std=model["initial_std"], min_std=model["min_std"])
    if not isinstance(action_space, Box):
        for name, default in (("initial_std", 1.0), ("min_std", 1e-6)):
            value = model[name]  # type: ignore[literal-required]
            if value != default:
                raise ValueError(
                    f"{name} is {value!r}, but the actions are {action_space}: it is a setting of actions in boxes"
                )
    assert observation_space.shape is not None
    return MLP(
        math.prod(observation_space.shape),
        head,
        model["hidden_sizes"],
        model["activation"],
        model["context_size"],
    )
