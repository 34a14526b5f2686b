"""The derivatives of any policy by autograd: what ``mlp_derivatives`` does for MLPs, in more time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from maml_rl.policies.distributions import Distribution
from maml_rl.policies.policy import Blocks, Network


class Switches:
    """Which piecewise linear units are on: recorded where a network is made, or taken from another one.

    A ReLU network is smooth as long as none of its units switches. Derivatives at a point are those of the function
    whose units are on and off as they are there.
    """

    def __init__(self, pattern: Switches | None = None) -> None:
        self._on: list[Tensor] = [] if pattern is None else pattern._on
        self._replayed = iter(self._on) if pattern is not None else None

    def __call__(self, x: Tensor) -> Tensor:
        """Whether each unit is on, in the order of the calls."""
        if self._replayed is not None:
            return next(self._replayed)
        self._on.append(x.detach() > 0)
        return self._on[-1]


class AutogradNetwork(Network):
    """A policy at fixed parameters and observations.

    Args:
        evaluate: ``(blocks, switches) -> distribution``; it may ignore the switches.
        blocks: parameters stacked over tasks.
        pattern: a network at the same observations whose switches are taken.
    """

    def __init__(
        self,
        evaluate: Callable[[Blocks, Switches], Distribution],
        blocks: Blocks,
        pattern: AutogradNetwork | None = None,
    ) -> None:
        self._switches: Switches = Switches(None if pattern is None else pattern._switches)
        with torch.enable_grad():
            self._blocks = [block.detach().requires_grad_() for block in blocks]
            self._attached = evaluate(self._blocks, self._switches)
        self.outputs = self._attached.detach()
        self._cotangents: Sequence[Tensor] = ()
        self._gradients: Blocks = []

    def vjp(self, cotangents: Sequence[Tensor], *, keep_errors: bool = False) -> Blocks:
        if not keep_errors:
            return self._pull(cotangents, create_graph=False)
        with torch.enable_grad():
            # The gradient as a function of cotangents, in which it is linear, and of parameters.
            self._cotangents = [x.detach().requires_grad_() for x in cotangents]
            self._gradients = self._pull(self._cotangents, create_graph=True)
        return [gradient.detach() for gradient in self._gradients]

    def _pull(self, cotangents: Sequence[Tensor], *, create_graph: bool) -> Blocks:
        return list(
            torch.autograd.grad(
                self._attached.parts,
                self._blocks,
                cotangents,
                retain_graph=True,
                create_graph=create_graph,
                materialize_grads=True,
            )
        )

    def jvp(self, tangents: Blocks) -> tuple[Tensor, ...]:
        if not self._gradients:
            self.vjp([torch.zeros_like(part) for part in self.outputs.parts], keep_errors=True)
        return self._derivatives(self._cotangents, tangents)

    def second_vjp(self, tangents: Blocks, cotangents: Sequence[Tensor]) -> Blocks:
        # The derivative of the gradient in the parameters is symmetric.
        moved = self._derivatives(self._blocks, tangents)
        return [a + b for a, b in zip(moved, self.vjp(cotangents), strict=True)]

    def _derivatives(self, of: Sequence[Tensor], tangents: Blocks) -> tuple[Tensor, ...]:
        """Derivative of ``<tangents, gradients>``."""
        used = [(g, t) for g, t in zip(self._gradients, tangents, strict=True) if g.requires_grad]
        gradients, along = zip(*used, strict=True)
        return torch.autograd.grad(gradients, of, along, retain_graph=True, materialize_grads=True)
