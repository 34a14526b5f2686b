"""The multi-task baseline: average the parameters of regressors trained on one task each (paper, app. C).

The paper trains 500 regressors one after the other, in three variants: without regularisation, with weight
decay, and with an L2 penalty toward the mean of the regressors trained so far. Here a group of regressors
trains at once, as parameters stacked over tasks; the third variant's mean is that of all earlier groups.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from maml_rl.meta_learner import Params
from supervised.config import TrainingSettings
from supervised.episodes import Purpose, stream
from supervised.meta_step import TaskLoss
from supervised.networks import Network
from supervised.sinusoid import INPUT, draw_sinusoids
from supervised.trainer import NonFiniteLossError, StepReport

Penalty = Literal["none", "to zero", "to the mean"]
PENALTIES: dict[str, Penalty] = {
    "multi-task": "none",
    "multi-task-l2": "to zero",
    "multi-task-l2-mean": "to the mean",
}


@dataclass
class RegressorAveraging:
    """A trainer (see ``trainer.Trainer``) whose iteration trains one group of ``meta_batch_size`` regressors.

    Attributes:
        regularisation: weight of the penalty, the squared distance of a regressor's parameters
            to zero or to the mean.
        steps, points: Adam steps of each regressor and fresh points of its task in each.
    """

    network: Network
    loss: TaskLoss
    settings: TrainingSettings
    penalty: Penalty
    regularisation: float
    steps: int = 3000
    points: int = 100
    iteration: int = field(default=0, init=False)
    _mean: Params = field(default_factory=dict, init=False)

    @property
    def params(self) -> Params:
        """The average over all regressors so far."""
        return dict(self._mean)

    def step(self) -> StepReport:
        """Train a group; reports the loss on its tasks in the last step."""
        started = time.perf_counter()
        regressors, loss, norm = self._train_group()
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"iteration {self.iteration + 1}: the loss is {loss}; lower meta_lr")
        group = {name: value.mean(0) for name, value in regressors.items()}
        share = 1 / (self.iteration + 1)
        self._mean = {
            name: value if self.iteration == 0 else torch.lerp(self._mean[name], value, share)
            for name, value in group.items()
        }
        self.iteration += 1
        return StepReport(loss, math.nan, norm, time.perf_counter() - started)

    def _train_group(self) -> tuple[Params, float, float]:
        size, seed = self.settings.meta_batch_size, self.settings.seed
        rng = stream(seed, Purpose.SINGLE_TASKS, self.iteration)
        sinusoids = draw_sinusoids(rng, size)
        starts = [self.network.init_params(rng) for _ in range(size)]
        params = {name: torch.stack([p[name] for p in starts]).requires_grad_() for name in starts[0]}
        adam = torch.optim.Adam(params.values(), self.settings.meta_lr, fused=True)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for _ in range(self.steps):
            x = rng.uniform(*INPUT, (size, self.points))
            inputs, targets = (torch.from_numpy(v[..., None]).float() for v in (x, sinusoids(x)))
            losses = self.loss(self.network(params, inputs), targets)
            objective = losses.sum() + self.regularisation * self._penalties(params).sum()
            gradients = torch.autograd.grad(objective, list(params.values()))
            for value, gradient in zip(params.values(), gradients, strict=True):
                value.grad = gradient
            adam.step()
            decay.step()
        norm = float(torch.nn.utils.get_total_norm(gradients))
        return {name: value.detach() for name, value in params.items()}, float(losses.detach().mean()), norm

    def _penalties(self, params: Params) -> Tensor:
        """Sum of squares of each regressor's distance ``[size]``; zero where there is nothing to be near to."""
        if self.penalty == "none" or (self.penalty == "to the mean" and not self._mean):
            return torch.zeros(1)
        centre = self._mean if self.penalty == "to the mean" else {name: torch.tensor(0.0) for name in params}
        squares = [(value - centre[name]).square().flatten(1).sum(1) for name, value in params.items()]
        return torch.stack(squares).sum(0)

    def state(self) -> dict[str, Tensor]:
        return self.params

    def load(self, state: dict[str, Tensor], iteration: int) -> None:
        self._mean, self.iteration = state, iteration
