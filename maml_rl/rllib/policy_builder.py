"""The policy of a configuration for an environment's spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict

from gymnasium.spaces import Box, Space
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import nn

from maml_rl.envs.naming import find_network
from maml_rl.envs.spaces import head_of
from maml_rl.policies.heads import GaussianHead, Head, StateGaussianHead
from maml_rl.policies.layers import out_size
from maml_rl.policies.mlp import MLP, WRITTEN_OUT
from maml_rl.policies.module_policy import ModulePolicy
from maml_rl.policies.network_policy import Filter, NetworkPolicy
from maml_rl.policies.policy import Policy
from maml_rl.policies.structure import Image
from maml_rl.rllib.model_config import OfRLModule


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
    module: Any


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
    if model["module"] is not None:
        return _module_policy(observation_space, action_space, head, model)
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


def _module_policy(
    observation_space: Space[Any], action_space: Space[Any], head: Head, model: Model
) -> ModulePolicy:
    module: Any = model["module"]
    if model["context_size"]:
        raise ValueError(
            f"context_size is {model['context_size']}, but module is given: it has no place for one"
        )
    seen = getattr(observation_space, "original", observation_space)
    if isinstance(module, RLModuleSpec):
        make: Callable[[], Any] = partial(OfRLModule, module, seen, action_space)
        name = module_name(module.module_class)
        if isinstance(action_space, Box):
            head = StateGaussianHead(head.action_size)
    elif isinstance(module, nn.Module):
        make, name = partial(_same, module), module_name(type(module))
    else:
        factory = find_network(module) if isinstance(module, str) else module
        make, name = partial(factory, seen, head.outputs), module_name(module)
    assert observation_space.shape is not None
    return ModulePolicy(
        make,
        head,
        math.prod(observation_space.shape),
        name=name,
        structure=getattr(observation_space, "structure", None),
        adapt_only=model["adapt_only"],
    )


def module_name(module: Any) -> str:
    """How a module is named in messages and files."""
    if isinstance(module, str):
        return module
    return f"{getattr(module, '__module__', '?')}:{getattr(module, '__qualname__', repr(module))}"


def _same(module: nn.Module) -> nn.Module:
    return module


def default_filters(images: tuple[Image, ...]) -> tuple[Filter, ...]:
    """Convolutions of 3 x 3 with stride 2 until less than 5 places are left in the smallest picture."""
    filters: list[Filter] = []
    left = min((side for image in images for side in image.chw[1:]), default=0)
    while left >= 5:
        filters.append((min(16 * 2 ** len(filters), 64), 3, 2))
        left = out_size(left, 3, 2)
    return tuple(filters)
