"""Line 10 of Algorithm 3 with Adam on minibatches instead of one natural-gradient step.

With PPO's clipped surrogate (Schulman et al. 2017) as outer loss it trains policies without inner steps, and
meta-policies (Rothfuss et al. 2019, "ProMP"); with the imitation loss of ``guidance.py`` it trains guided ones.
Many small steps average the noise of a batch that a natural gradient, which divides by small curvatures, blows up.
How far they may lead is decided as in TRPO: by a line search that keeps the KL within ``max_kl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from maml_rl.learning.batch import Samples, shuffled
from maml_rl.learning.losses import OuterLoss
from maml_rl.learning.meta_update import adapted_policy
from maml_rl.learning.trpo import LineSearch, StepResult, line_search
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.policy import Params, Policy
from maml_rl.tools.optimizer_state import optimizer_arrays, restore_optimizer

MAX_GRADIENT_NORM = 0.5  # Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic methods?"
ADAM_EPSILON = 1e-5  # the same


@dataclass(frozen=True)
class PPOSettings:
    """What the update needs to know; ``MAMLConfig.training`` gives meanings and sources."""

    inner_lr: float = 0.1
    first_order: bool = False
    lr: float = 1e-3
    num_epochs: int = 10
    minibatch_size: int = 1000
    max_kl: float = 0.05
    line_search: LineSearch = field(default_factory=LineSearch)


class Minibatch(NamedTuple):
    """Samples of some tasks, and the policies that collected ``post``."""

    pre: tuple[Samples, ...]
    post: Samples
    old: Distribution


class PPO:
    """The update and its optimiser's state.

    Args:
        meta_params: of the policy to train; their names and shapes count.
    """

    def __init__(self, spec: Policy, meta_params: Params, settings: PPOSettings) -> None:
        self._spec, self._settings = spec, settings
        self._params = {name: value.clone().requires_grad_() for name, value in meta_params.items()}
        self._optimizer = torch.optim.Adam(self._params.values(), lr=settings.lr, eps=ADAM_EPSILON)

    def update(
        self,
        meta_params: Params,
        pre: Sequence[Samples],
        post: Samples,
        outer_loss: OuterLoss,
        generator: torch.Generator,
    ) -> tuple[Params, StepResult]:
        """Epochs of minibatches on one batch, until the KL exceeds ``max_kl``, then a line search back to it.

        Args:
            meta_params: the policy that collected ``pre``, with learned step sizes if there are any.
            pre: the samples each inner step adapts on, in order; none of them is plain PPO on ``post``.
            post: the samples drawn with the adapted policies.
            generator: of the order of tasks and samples.

        Returns:
            The new meta-parameters, which are the old ones if no step was acceptable, and what the update did.
        """
        self._set(parameters_to_vector(meta_params[name] for name in self._params))
        start = self._get()
        with torch.no_grad():
            old = self._policy(pre, post, first_order=True)
        batch = Minibatch(tuple(pre), post, old)

        @torch.no_grad()
        def evaluate(params: Tensor) -> tuple[float, float]:
            self._set(params)
            loss, kl = outer_loss(self._policy(pre, post, first_order=True), old, post)
            return float(loss.mean()), float(kl.mean())

        loss_before = float(outer_loss(old, old, post)[0].mean())
        norms = []
        for _ in range(self._settings.num_epochs):
            for part in self._minibatches(batch, generator):
                policy = self._policy(part.pre, part.post, self._settings.first_order)
                self._optimizer.zero_grad()
                outer_loss(policy, part.old, part.post)[0].mean().backward()
                norms.append(torch.nn.utils.clip_grad_norm_(self._params.values(), MAX_GRADIENT_NORM))
                self._optimizer.step()
            end = self._get()
            if not evaluate(end)[1] <= self._settings.max_kl:  # written so that a NaN ends it
                break
        norm = float(torch.stack(norms).mean())
        found = line_search(
            start,
            end - start,
            evaluate,
            loss_before=loss_before,
            max_kl=self._settings.max_kl,
            search=self._settings.line_search,
        )
        if found is None:
            steps = self._settings.line_search.steps
            return meta_params, StepResult(start, loss_before, loss_before, 0.0, False, steps, norm)
        params, loss, kl, backtracks = found
        self._set(params)
        new_params = {name: value.detach().clone() for name, value in self._params.items()}
        return new_params, StepResult(params, loss_before, loss, kl, True, backtracks, norm)

    def _get(self) -> Tensor:
        return parameters_to_vector(self._params.values()).detach()

    def _set(self, vector: Tensor) -> None:
        vector_to_parameters(vector.clone(), self._params.values())

    def _policy(self, pre: Sequence[Samples], post: Samples, first_order: bool) -> Distribution:
        return adapted_policy(
            self._spec, self._params, pre, post, self._settings.inner_lr, first_order=first_order
        )

    def _minibatches(self, batch: Minibatch, generator: torch.Generator) -> Iterator[Minibatch]:
        """About ``minibatch_size`` samples each: of whole tasks, or of the only task there is."""
        pre, post, old = batch
        tasks, count = post.weights.shape[:2]
        parts = max(1, post.weights.numel() // self._settings.minibatch_size)
        device = post.weights.device
        if tasks == 1:
            for index in shuffled(count, parts, generator, device):
                yield Minibatch(pre, post.select(index), old.at(index))
        else:
            for index in shuffled(tasks, parts, generator, device):
                taken = [Samples(*(field[index] for field in samples)) for samples in (*pre, post)]
                yield Minibatch(tuple(taken[:-1]), taken[-1], old.of_tasks(index))

    def state(self) -> dict[str, np.ndarray]:
        """What the optimiser remembers, for a checkpoint."""
        return optimizer_arrays(self._optimizer, self._params)

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state`` returned."""
        restore_optimizer(self._optimizer, self._params, state)
