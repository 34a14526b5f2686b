"""The multi-task baseline: average the parameters of regressors trained on one task each (paper, app. C).

The paper trains 500 regressors one after the other, in three variants: without regularisation, with weight
decay, and with an L2 penalty toward the mean of the regressors trained so far. Here a group of regressors
trains at once, as parameters stacked over tasks; the third variant's mean is that of all earlier groups.
The paper's regressors had errors below 0.02; one that ends above, in a poor local minimum, starts again from
other weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Purpose, stream
from supervised.data.sinusoid import INPUT, Sinusoids, draw_sinusoids
from supervised.learning.losses import TaskLoss
from supervised.learning.settings import TrainingSettings
from supervised.learning.trainer import NonFiniteLossError, StepReport
from supervised.models.networks import Network

Penalty = Literal["none", "to zero", "to the mean"]
PENALTIES: dict[str, Penalty] = {
    "multi-task": "none",
    "multi-task-l2": "to zero",
    "multi-task-l2-mean": "to the mean",
}

_ERROR_POINTS = 1000


@dataclass
class RegressorAveraging:
    """A trainer (see ``trainer.Trainer``) whose iteration trains one group of ``meta_batch_size`` regressors.

    Attributes:
        regularisation: weight of the penalty, the squared distance of a regressor's parameters
            to zero or to the mean.
        steps, points: Adam steps of each regressor and fresh points of its task in each.
        tolerance: a regressor whose squared error is larger at the end starts again,
        attempts: so many times in all, of which the best counts.
    """

    network: Network
    loss: TaskLoss
    settings: TrainingSettings
    penalty: Penalty
    regularisation: float
    steps: int = 3000
    points: int = 100
    tolerance: float = 0.02
    attempts: int = 4
    iteration: int = field(default=0, init=False)
    _mean: Params = field(default_factory=dict, init=False)

    @property
    def params(self) -> Params:
        """The average over all regressors so far."""
        return dict(self._mean)

    def step(self) -> StepReport:
        """Train a group; reports the squared error on its tasks at the end."""
        started = time.perf_counter()
        regressors, errors = self._train_group()
        loss = float(errors.mean())
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"iteration {self.iteration + 1}: the loss is {loss}; lower meta_lr")
        group = {name: value.mean(0) for name, value in regressors.items()}
        share = 1 / (self.iteration + 1)
        self._mean = {
            name: value if self.iteration == 0 else torch.lerp(self._mean[name], value, share)
            for name, value in group.items()
        }
        self.iteration += 1
        return StepReport(loss, math.nan, math.nan, time.perf_counter() - started)

    def _train_group(self) -> tuple[Params, Tensor]:
        """Parameters stacked over the group, and the squared error of each regressor ``[size]``."""
        rng = stream(self.settings.seed, Purpose.SINGLE_TASKS, self.iteration)
        sinusoids = draw_sinusoids(rng, self.settings.meta_batch_size)
        params, errors = self._train(sinusoids, rng)
        for _ in range(self.attempts - 1):
            failed = torch.nonzero(errors > self.tolerance)[:, 0]
            if len(failed) == 0:
                break
            again, new_errors = self._train(Sinusoids(*(v[failed.numpy()] for v in sinusoids)), rng)
            better = new_errors < errors[failed]
            for name, value in params.items():
                value[failed[better]] = again[name][better]
            errors[failed[better]] = new_errors[better]
        return params, errors

    def _train(self, sinusoids: Sinusoids, rng: np.random.Generator) -> tuple[Params, Tensor]:
        size = len(sinusoids.phase)
        starts = [self.network.init_params(rng) for _ in range(size)]
        params = {name: torch.stack([p[name] for p in starts]).requires_grad_() for name in starts[0]}
        adam = torch.optim.Adam(params.values(), self.settings.meta_lr, fused=True)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for _ in range(self.steps):
            losses = self._losses(params, sinusoids, rng, self.points)
            objective = losses.sum() + self.regularisation * self._penalties(params).sum()
            gradients = torch.autograd.grad(objective, list(params.values()))
            for value, gradient in zip(params.values(), gradients, strict=True):
                value.grad = gradient
            adam.step()
            decay.step()
        final = {name: value.detach() for name, value in params.items()}
        return final, self._losses(final, sinusoids, rng, _ERROR_POINTS)

    def _losses(self, params: Params, sinusoids: Sinusoids, rng: np.random.Generator, points: int) -> Tensor:
        x = rng.uniform(*INPUT, (len(sinusoids.phase), points))
        inputs, targets = (torch.from_numpy(v[..., None]).float() for v in (x, sinusoids(x)))
        return self.loss(self.network(params, inputs), targets)

    def _penalties(self, params: Params) -> Tensor:
        """Sum of squares of each regressor's distance ``[size]``; zero where there is nothing to be near to."""
        if self.penalty == "none" or (self.penalty == "to the mean" and not self._mean):
            return torch.zeros(1)
        centre = self._mean if self.penalty == "to the mean" else {name: torch.tensor(0.0) for name in params}
        squares = [(value - centre[name]).square().flatten(1).sum(1) for name, value in params.items()]
        return torch.stack(squares).sum(0)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load(self, params: Params, state: Mapping[str, np.ndarray], iteration: int) -> None:
        self._mean, self.iteration = params, iteration
