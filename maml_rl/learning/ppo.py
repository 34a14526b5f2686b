"""Line 10 of Algorithm 3 with Adam on minibatches instead of one natural-gradient step.

With PPO's clipped surrogate (Schulman et al. 2017) as outer loss it trains policies without inner steps, and
meta-policies (Rothfuss et al. 2019, "ProMP"); with the imitation loss of ``guidance.py`` it trains guided ones.
Many small steps average the noise of a batch that a natural gradient, which divides by small curvatures, blows up.
How far they may lead is decided as in TRPO: by a line search that keeps the KL within ``max_kl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from maml_rl.learning.batch import shuffled
from maml_rl.learning.meta_update import MetaObjective
from maml_rl.learning.trpo import LineSearch, StepResult, line_search
from maml_rl.policies.policy import Params
from maml_rl.tools.optimizer_state import optimizer_arrays, restore_optimizer

MAX_GRADIENT_NORM = 0.5  # Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic methods?"
ADAM_EPSILON = 1e-5  # the same


@dataclass(frozen=True)
class PPOSettings:
    """What the update needs to know; ``MAMLConfig.training`` gives meanings and sources."""

    lr: float = 1e-3
    num_epochs: int = 10
    minibatch_size: int = 1000
    max_kl: float = 0.05
    line_search: LineSearch = field(default_factory=LineSearch)


class PPO:
    """The update and its optimiser's state.

    Args:
        meta_params: of the policy to train; their names and shapes count.
    """

    def __init__(self, meta_params: Params, settings: PPOSettings) -> None:
        self._settings = settings
        self._params = {name: value.clone().requires_grad_() for name, value in meta_params.items()}
        self._optimizer = torch.optim.Adam(self._params.values(), lr=settings.lr, eps=ADAM_EPSILON)

    def update(self, objective: MetaObjective, generator: torch.Generator) -> StepResult:
        """Epochs of minibatches on one batch, until the KL exceeds ``max_kl``, then a line search back to it.

        Args:
            objective: with the samples, of the meta-parameters that collected them.
            generator: of the order of tasks and samples.

        Returns:
            What the update did; ``params`` are where it began if no step was acceptable.
        """
        end = objective.start
        self._set(objective.meta_params(end))
        norms = []
        for _ in range(self._settings.num_epochs):
            for index in self._minibatches(objective, generator):
                gradient = objective.meta_params(objective.minibatch_gradient(end, index))
                for name, value in self._params.items():
                    value.grad = gradient[name].clone()
                norms.append(torch.nn.utils.clip_grad_norm_(self._params.values(), MAX_GRADIENT_NORM))
                self._optimizer.step()
                end = objective.vector({name: value.detach() for name, value in self._params.items()})
            if not objective.loss_and_kl(end)[1] <= self._settings.max_kl:  # written so that a NaN ends it
                break
        norm = float(torch.stack(norms).mean())
        before, search = objective.loss_before, self._settings.line_search
        found = line_search(
            objective.start,
            end - objective.start,
            objective.loss_and_kl,
            loss_before=before,
            max_kl=self._settings.max_kl,
            search=search,
        )
        if found is None:
            return StepResult(objective.start, before, before, 0.0, False, search.steps, norm)
        params, loss, kl, backtracks = found
        self._set(objective.meta_params(params))
        return StepResult(params, before, loss, kl, True, backtracks, norm)

    @torch.no_grad()
    def _set(self, values: Params) -> None:
        for name, value in self._params.items():
            value.copy_(values[name])

    def _minibatches(self, objective: MetaObjective, generator: torch.Generator) -> Iterator[Tensor]:
        """About ``minibatch_size`` samples each: of whole tasks, or of the only task there is."""
        parts = max(1, objective.tasks * objective.samples_per_task // self._settings.minibatch_size)
        yield from shuffled(objective.units, parts, generator)

    def state(self) -> dict[str, np.ndarray]:
        """What the optimiser remembers, for a checkpoint."""
        return optimizer_arrays(self._optimizer, self._params)

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state`` returned."""
        restore_optimizer(self._optimizer, self._params, state)
