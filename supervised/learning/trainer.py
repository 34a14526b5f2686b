"""Meta-parameters in training: Adam on the meta-gradient (Finn et al. 2017, Algorithm 2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.optimizer_state import optimizer_arrays, restore_optimizer
from supervised.data.episodes import Episodes, Purpose, Sampler, check_episodes, stream
from supervised.learning.graph import Replayed
from supervised.learning.meta_step import INNER_LR, Learner, Measurement, meta_gradient, step_size_multiples
from supervised.learning.problem import chunk_size
from supervised.learning.settings import ConfigError, TrainingSettings


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient is infinite or not a number; the parameters are those before it."""


class StepReport(NamedTuple):
    """Means over the tasks of one iteration; ``accuracy`` is NaN in regression."""

    query_loss: float
    query_accuracy: float
    gradient_norm: float
    seconds: float


class Trainer(Protocol):
    """What ``training.TrainingRun`` drives."""

    iteration: int

    @property
    def params(self) -> Params:
        """The present meta-parameters."""
        ...

    def step(self) -> StepReport:
        """One iteration."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything that later iterations depend on, besides ``params`` and ``iteration``."""
        ...

    def load(self, params: Params, state: Mapping[str, np.ndarray], iteration: int) -> None:
        """Go on from there; raises ValueError when it does not fit."""
        ...


@dataclass(frozen=True)
class StartingPoint:
    """Meta-parameters to begin with instead of fresh ones, so that training begins with the model as it was.

    The last layer begins at zero where it has another shape, in a classifier for another number of ways: no class
    is preferred. Step sizes begin fresh where there are none yet, at zero for what was not adapted.

    Attributes:
        params: of an earlier training.
        adapted: whether its inner loop changed a parameter.
    """

    params: Params
    adapted: Callable[[str], bool] = lambda name: True

    def fitted(self, learner: Learner, fresh: Params) -> Params:
        """All meta-parameters, step sizes included, for a network of ``fresh`` parameters.

        Raises:
            ValueError: they do not fit the network.
        """
        head, initial = getattr(learner.network, "head", None), dict(self.params)
        last = [name for name in fresh if name.rpartition(".")[0] == head]
        if any(name in initial and initial[name].shape != fresh[name].shape for name in last):
            initial |= {name: torch.zeros_like(fresh[name]) for name in last}
        multiples = step_size_multiples(learner, fresh, self.adapted)
        if not any(name.startswith(INNER_LR) for name in initial):
            initial |= multiples
        _check_shapes(fresh | multiples, initial)
        return initial

    def for_network(self, learner: Learner) -> Params:
        """All meta-parameters for a learner, the last layer at zero where it has another shape."""
        return self.fitted(learner, learner.network.init_params(np.random.default_rng(0)))


class MetaTrainer:
    """Trains a learner's meta-parameters on the tasks of a sampler.

    Raises:
        ValueError: ``start_from`` does not fit the learner.
        ConfigError: a CUDA graph is asked for on another device.
    """

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        settings: TrainingSettings,
        device: torch.device,
        start_from: StartingPoint | None = None,
    ) -> None:
        self.learner, self.sampler, self.settings, self.device = learner, sampler, settings, device
        fresh = learner.network.init_params(stream(settings.seed, Purpose.INITIALISATION))
        initial = (start_from or StartingPoint(fresh)).fitted(learner, fresh)
        self._params = {name: value.to(device, copy=True).requires_grad_() for name, value in initial.items()}
        self._adam = torch.optim.Adam(self._params.values(), settings.meta_lr, fused=True)
        self._gradient: Callable[[Episodes], tuple[Params, Measurement]] = self._meta_gradient
        if settings.capture_graph:
            if device.type != "cuda":
                raise ConfigError(f"capture_graph is True, but the device is '{device}'; it must be 'cuda'")
            self._gradient = Replayed(self._meta_gradient)
        self.iteration = 0

    @property
    def params(self) -> Params:
        return {name: value.detach() for name, value in self._params.items()}

    def step(self) -> StepReport:
        """One meta-update.

        Raises:
            NonFiniteLossError: naming the iteration; the parameters stay as they were.
        """
        started, settings = time.perf_counter(), self.settings
        episodes = self.sampler(
            stream(settings.seed, Purpose.TRAINING, self.iteration), settings.meta_batch_size
        )
        if self.iteration == 0:
            check_episodes(episodes, settings.meta_batch_size)
        gradients, measured = self._gradient(episodes.to(self.device))
        loss = float(measured.losses.mean())
        norm = float(torch.nn.utils.get_total_norm(gradients.values()))
        if not math.isfinite(loss + norm):
            raise NonFiniteLossError(
                f"iteration {self.iteration + 1}: the query loss is {loss}, the norm of its gradient {norm}; "
                "lower inner_lr or meta_lr"
            )
        self._update(gradients)
        self.iteration += 1
        accuracy = math.nan if measured.accuracies is None else float(measured.accuracies.mean())
        return StepReport(loss, accuracy, norm, time.perf_counter() - started)

    def _meta_gradient(self, episodes: Episodes) -> tuple[Params, Measurement]:
        mixed = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return meta_gradient(self.learner, self._params, episodes, chunk_size(self.settings))

    def _update(self, gradients: Params) -> None:
        clip = self.settings.gradient_clip
        for name, value in self._params.items():
            value.grad = gradients[name].clamp_(-clip, clip) if clip else gradients[name]
        if self.settings.meta_lr_decay:
            done = self.iteration / self.settings.iterations
            self._adam.param_groups[0]["lr"] = self.settings.meta_lr * 0.5 * (1 + np.cos(np.pi * done))
        self._adam.step()

    def state(self) -> dict[str, np.ndarray]:
        """Adam's moments and step count of every meta-parameter."""
        return optimizer_arrays(self._adam, self._params)

    def load(self, params: Params, state: Mapping[str, np.ndarray], iteration: int) -> None:
        _check_shapes(self._params, params)
        with torch.no_grad():
            for name, value in self._params.items():
                value.copy_(params[name])
        restore_optimizer(self._adam, self._params, state)
        self.iteration = iteration


def _check_shapes(expected: Params, stored: Params) -> None:
    found, wanted = ({name: tuple(v.shape) for name, v in params.items()} for params in (stored, expected))
    if found != wanted:
        raise ValueError(f"the stored parameters {found} do not fit the network's {wanted}")
