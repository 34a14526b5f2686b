"""What everything else knows of a policy."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.policies.acting import ActingPolicy
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.heads import Head
from maml_rl.policies.structure import Image

Params = dict[str, Tensor]
Blocks = list[Tensor]
"""Parameters as the tensors of ``Policy.shapes``, in that order."""

CONTEXT = "context"
"""Name of the free parameters beside the observation, which are all that is adapted where there are any."""


class Network(ABC):
    """The policy's network of some tasks at fixed parameters and observations, and its derivatives.

    Tangents and cotangents of the outputs are tensors like ``outputs.parts``, those of the parameters are blocks.
    """

    outputs: Distribution

    @abstractmethod
    def jvp(self, tangents: Blocks) -> tuple[Tensor, ...]:
        """Directional derivative of the outputs."""

    @abstractmethod
    def vjp(self, cotangents: Sequence[Tensor], *, keep_errors: bool = False) -> Blocks:
        """Gradient of ``<cotangents, outputs>`` with respect to the blocks.

        Args:
            keep_errors: ``second_vjp`` will be called.
        """

    @abstractmethod
    def second_vjp(self, tangents: Blocks, cotangents: Sequence[Tensor]) -> Blocks:
        """Directional derivative of the result of ``vjp``.

        Args:
            tangents: the direction; ``jvp(tangents)`` must have been called last.
            cotangents: the directional derivative of the cotangents that were given to the last
                ``vjp(..., keep_errors=True)``.
        """


class Scratch(threading.local):
    """Work arrays of one thread, shared by all chunks: a fresh large array costs a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, int, int, int], Tensor] = {}

    def __call__(self, name: str, like: Tensor, width: int) -> Tensor:
        tasks, samples = like.shape[:2]
        key = (name, tasks, samples, width)
        if key not in self._arrays:
            self._arrays[key] = like.new_ones((tasks, samples, width))
        return self._arrays[key]


class Policy(ActingPolicy):
    """A function from parameters and observations to distributions of actions; it holds no parameters itself.

    Parameters are values (``dict[str, Tensor]``). The torch form takes them *stacked over tasks*, so that all tasks
    of a meta-batch are computed at once, each with its own adapted weights.

    Attributes:
        context_size: free parameters appended to the observation; without ``adapt_only`` all that is adapted.
        adapt_only: beginnings of the names of the parameters that the inner loop changes; empty for all.
        recurrent: whether an output depends on the steps before; then samples are whole episodes,
            ``[tasks, episodes, steps, ...]``.
        images: the pictures in an observation.
    """

    kind: ClassVar[str]
    context_size: int = 0
    adapt_only: tuple[str, ...] = ()
    recurrent: bool = False
    images: tuple[Image, ...] = ()

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter, in the order of the flat parameter vector."""

    @abstractmethod
    def init_params(self, seed: int) -> Params:
        """Parameters at the start of training."""

    def adapted(self, name: str) -> bool:
        """Whether the inner loop changes a parameter; the others are meta-learned only."""
        if self.adapt_only:
            return name.startswith(self.adapt_only)
        return not self.context_size or name == CONTEXT

    @property
    def adapts_all(self) -> bool:
        """Whether the inner loop changes every parameter."""
        return all(map(self.adapted, self.shapes))

    @property
    def numbers(self) -> list[int] | None:
        """Which numbers of an observation belong to no picture; None is all of them."""
        if not self.images:
            return None
        pictures = {i for image in self.images for i in range(image.start, image.start + image.size)}
        return [i for i in range(self.observation_size) if i not in pictures]

    @abstractmethod
    def __call__(
        self,
        params: Mapping[str, Float[Tensor, "tasks ..."]],
        observations: Float[Tensor, "tasks ... observation"],
    ) -> Distribution:
        """Action distribution of every task's policy at its own observations."""

    def in_rollouts(self) -> ActingPolicy:
        """The same function as little as rollouts need of it: without torch if they can do without."""
        return self

    @abstractmethod
    def network(
        self,
        blocks: Blocks,
        observations: Tensor,
        scratch: Scratch,
        *,
        keep: bool,
        pattern: Any = None,
    ) -> Network:
        """The network at parameters stacked over tasks.

        Args:
            keep: False if only ``vjp`` will be called, before the next network is made with this ``scratch``.
            pattern: a network at the same observations whose piecewise linear units are on and off here, too: the
                smooth function that its derivatives are those of. Where a policy cannot do that it is ignored.
        """

    def check_adapt_only(self) -> None:
        """Refuse beginnings in ``adapt_only`` that no parameter's name has.

        Raises:
            ValueError: naming what is there.
        """
        for beginning in self.adapt_only:
            if not any(name.startswith(beginning) for name in self.shapes):
                names = ", ".join(self.shapes)
                raise ValueError(f"adapt_only holds {beginning!r}, but no parameter begins so: {names}")

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The policy in words and numbers, for files."""


def to_blocks(policy: Policy, params: Mapping[str, Tensor]) -> Blocks:
    """Parameters, stacked over tasks or not, as blocks."""
    return [params[name] for name in policy.shapes]


def from_blocks(policy: Policy, blocks: Blocks) -> Params:
    """Inverse of ``to_blocks``."""
    return dict(zip(policy.shapes, blocks, strict=True))


def initial_values(head: Head) -> Params:
    """Of a head's parameters."""
    return {name: torch.from_numpy(value) for name, value in head.initial_values().items()}


def init_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Params:
    """Xavier-uniform weights; zeros for all that is no ``*.weight`` of two dimensions or more."""
    generator = torch.Generator().manual_seed(seed)
    params: Params = {}
    for name, shape in shapes.items():
        params[name] = torch.zeros(shape)
        if name.endswith("weight") and len(shape) > 1:
            torch.nn.init.xavier_uniform_(params[name], generator=generator)
    return params
