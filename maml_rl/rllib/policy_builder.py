"""The policy of a configuration for an environment's spaces."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from gymnasium.spaces import Box, Space

from maml_rl.envs.spaces import head_of
from maml_rl.policies.heads import GaussianHead
from maml_rl.policies.layers import out_size
from maml_rl.policies.mlp import MLP, WRITTEN_OUT
from maml_rl.policies.network_policy import Filter, NetworkPolicy
from maml_rl.policies.policy import Image, Policy


class Model(TypedDict):
    """The fields of ``MAMLConfig`` that a policy is made from."""

    hidden_sizes: tuple[int, ...]
    activation: str
    layer_norm: bool
    conv_filters: tuple[Filter, ...] | None
    recurrent: str | None
    recurrent_size: int
    adapt_only: tuple[str, ...]
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
        default = GaussianHead(1)
        for name, value, unset in (
            ("initial_std", model["initial_std"], default.initial_std),
            ("min_std", model["min_std"], default.min_std),
        ):
            if value != unset:
                raise ValueError(f"{name} is {value!r}, but the actions are no box but {action_space}")
    assert observation_space.shape is not None
    size = math.prod(observation_space.shape)
    images = getattr(observation_space, "images", ())
    if model["conv_filters"] and not images:
        raise ValueError(
            f"conv_filters is {model['conv_filters']}, but there is no image in {observation_space}: images are "
            "boxes of bytes from 0 to 255, [height, width] or [height, width, channels]"
        )
    general = images or model["layer_norm"] or model["recurrent"] or model["activation"] not in WRITTEN_OUT
    if not general:
        return MLP(
            size, head, model["hidden_sizes"], model["activation"], model["context_size"], model["adapt_only"]
        )
    filters = model["conv_filters"]
    return NetworkPolicy(
        size,
        head,
        model["hidden_sizes"],
        model["activation"],
        model["context_size"],
        model["adapt_only"],
        model["layer_norm"],
        images,
        default_filters(images) if filters is None else filters,
        model["recurrent"],
        model["recurrent_size"],
    )


def default_filters(images: tuple[Image, ...]) -> tuple[Filter, ...]:
    """Convolutions of 3 x 3 with stride 2 until less than 5 places are left in the smallest picture."""
    filters: list[Filter] = []
    left = min((side for image in images for side in image.chw[1:]), default=0)
    while left >= 5:
        filters.append((min(16 * 2 ** len(filters), 64), 3, 2))
        left = out_size(left, 3, 2)
    return tuple(filters)
