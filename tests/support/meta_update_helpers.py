"""A small meta-problem with random data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from helpers import (
    random_inner_lr,
    random_params,
    random_samples,
    small_spec,
)
from torch import Tensor

from maml_rl.learning.adaptation import InnerUpdateSettings
from maml_rl.learning.batch import Samples
from maml_rl.learning.meta_learner import Params
from maml_rl.learning.meta_update import (
    MetaObjective,
    MetaUpdateSettings,
    meta_update,
)
from maml_rl.learning.ppo import PPO
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.trpo import LinearOperator, StepResult
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Policy

DOUBLE = torch.float64


COUNTS = [6, 4, 5]


INNER = InnerUpdateSettings(inner_lr=0.3)
SETTINGS = MetaUpdateSettings(hvp="exact")


class Objective(MetaObjective):
    """The objective of one learner, which knows TRPO's settings."""

    def __init__(
        self,
        spec: Policy,
        meta_params: Params,
        pre: Sequence[Samples],
        post: Samples,
        inner: InnerUpdateSettings,
        settings: MetaUpdateSettings,
    ) -> None:
        super().__init__(TaskSums(spec, meta_params, pre, post, inner))
        self._settings = settings

    def linearize(self, settings: MetaUpdateSettings | None = None) -> tuple[Tensor, LinearOperator]:
        return super().linearize(settings or self._settings)


def ppo_update(
    ppo: PPO, objective: MetaObjective, meta_params: Params, generator: torch.Generator
) -> tuple[Params, StepResult]:
    """The new meta-parameters, or the very old ones, and what the update did."""
    step = ppo.update(objective, generator)
    return (objective.meta_params(step.params) if step.accepted else meta_params), step


class Problem:
    """Meta-parameters, both phases' samples, and settings; everything can be replaced."""

    def __init__(
        self,
        *,
        steps: int = 1,
        learned: bool = False,
        seed: int = 0,
        dtype: torch.dtype = DOUBLE,
        counts: Sequence[int] = COUNTS,
        spec: MLP | None = None,
        **settings: Any,
    ) -> None:
        self.spec = spec or small_spec()
        self.meta_params = random_params(self.spec, seed, dtype)
        if learned:
            self.meta_params |= random_inner_lr(self.spec, seed, dtype)
        self.pre = [random_samples(self.spec, counts, seed + 10 + step, dtype) for step in range(steps)]
        self.post = random_samples(self.spec, counts[::-1], seed + 20, dtype)
        inner = {f.name for f in dataclasses.fields(INNER)} & set(settings)
        self.inner = dataclasses.replace(INNER, **{name: settings.pop(name) for name in inner})
        self.settings = dataclasses.replace(SETTINGS, **settings)

    def objective(self, *, pre: Sequence[Samples] | None = None, post: Samples | None = None) -> Objective:
        data = pre or self.pre, post or self.post
        return Objective(self.spec, self.meta_params, *data, self.inner, self.settings)

    def update(self) -> tuple[Params, Any]:
        return meta_update(self.spec, self.meta_params, self.pre, self.post, self.inner, self.settings)


def direction(like: Tensor, seed: int = 0) -> Tensor:
    """A random unit vector."""
    v = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(like.dtype)
    return v / v.norm()


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def trial_loss(problem: Problem, **data: Any) -> float:
    objective = problem.objective(**data)
    return objective.loss_and_kl(objective.start + 0.1 * direction(objective.start))[0]
