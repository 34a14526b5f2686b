"""Line 10 of Algorithm 3: the meta-objective over the tasks of all learners, and one trust-region step on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from maml_rl.learning.adaptation import InnerUpdateSettings
from maml_rl.learning.batch import Samples
from maml_rl.learning.losses import OuterLoss, surrogate_and_kl
from maml_rl.learning.meta_learner import Params
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.task_tree import Sums, total
from maml_rl.learning.trpo import LinearOperator, LineSearch, StepResult, Vector, trust_region_step
from maml_rl.policies.policy import Policy
from maml_rl.tools.threads import Map

HVPS = ("finite_difference", "exact")


@dataclass(frozen=True)
class MetaUpdateSettings:
    """What the meta-update needs to know; ``MAMLConfig.training`` gives meanings and sources."""

    max_kl: float = 0.01
    hvp: str = "finite_difference"
    hvp_step: float = 0.005
    curvature_fraction: float = 1.0
    cg_iterations: int = 10
    cg_residual_tol: float = 1e-10
    cg_damping: float = 1e-5
    line_search: LineSearch = field(default_factory=LineSearch)


Others = Callable[..., Callable[[], Sequence[Sums]]]
"""Starts a method of ``TaskSums`` on all other learners; what it returns waits for their sums."""


def no_others(method: str, *arguments: Any) -> Callable[[], Sequence[Sums]]:
    """There is one learner."""
    return tuple


class MetaObjective:
    """Mean over all tasks of the outer loss and of the KL to the policies that collected the samples.

    Args:
        own: the tasks of this learner.
        others: those of other ones.

    Attributes:
        start: the meta-parameters that collected the samples, as a vector.
        loss_before: the mean loss there.
        tasks: their number.
        samples_per_task: of the task that has most.
    """

    def __init__(self, own: TaskSums, others: Others = no_others) -> None:
        self._own, self._others = own, others
        self.start = own.start
        self.tasks, self.samples_per_task = len(own.share.tasks), own.samples_per_task
        self.loss_before = self.loss_and_kl()[0]

    def _sum(self, method: str, *arguments: Any) -> Tensor:
        answers = self._others(method, *arguments)
        sums: Sums = getattr(self._own, method)(*arguments)
        for other in answers():
            sums |= {node: value.to(self.start.device) for node, value in other.items()}
        return total(self._own.share.tasks, sums)

    def meta_params(self, vector: Vector) -> Params:
        """The meta-parameters that a vector stands for."""
        return self._own.flat.params(vector)

    def vector(self, meta_params: Params) -> Vector:
        """The vector that stands for meta-parameters."""
        return self._own.flat.vector(meta_params)

    def loss_and_kl(self, vector: Vector | None = None) -> tuple[float, float]:
        """Outer loss and KL, means over tasks, at ``vector`` or at the start."""
        loss, kl = (self._sum("loss_and_kl", vector) / self.tasks).tolist()
        return loss, kl

    def linearize(self, settings: MetaUpdateSettings) -> tuple[Vector, LinearOperator]:
        """Gradient of the loss at ``start``, and ``v -> (Hessian of the KL + damping) v`` there."""
        gradient = self._sum("gradient", settings.curvature_fraction) / self.tasks

        def product(v: Vector) -> Vector:
            step = None if settings.hvp == "exact" else settings.hvp_step / float(v.norm())
            return self._sum("product", v, step) / self.tasks + settings.cg_damping * v

        return gradient, product

    @property
    def units(self) -> int:
        """What minibatches are made of: the tasks, or the samples or episodes of the only one."""
        return self.tasks if self.tasks > 1 else self._own.units

    def minibatch_gradient(self, vector: Vector, index: Int[Tensor, " chosen"]) -> Vector:
        """Of the mean loss at ``vector`` over some of the ``units``."""
        count = 1 if self.tasks == 1 else len(index)
        return self._sum("minibatch_gradient", vector, index) / count


def trpo(objective: MetaObjective, settings: MetaUpdateSettings) -> StepResult:
    """One trust-region step on a meta-objective."""
    gradient, product = objective.linearize(settings)
    return trust_region_step(
        objective.start,
        gradient,
        product,
        objective.loss_and_kl,
        loss_before=objective.loss_before,
        max_kl=settings.max_kl,
        cg_iterations=settings.cg_iterations,
        cg_residual_tol=settings.cg_residual_tol,
        search=settings.line_search,
    )


def meta_update(
    spec: Policy,
    meta_params: Params,
    pre: Sequence[Samples],
    post: Samples,
    inner: InnerUpdateSettings,
    settings: MetaUpdateSettings,
    parallel_map: Map = map,
    outer_loss: OuterLoss = surrogate_and_kl,
) -> tuple[Params, StepResult]:
    """One TRPO step on the meta-objective (Finn et al. 2017, Algorithm 3, line 10).

    Args:
        meta_params: theta, and the learned step sizes if any (not stacked over tasks).
        pre: the samples each inner step adapts on, in order; none of them is plain TRPO on ``post``.
        post: the samples drawn with the adapted policies.
        inner: the adaptation on ``pre``.
        outer_loss: the surrogate of Algorithm 3, or imitation of an expert.

    Returns:
        The new meta-parameters and what the step did; they are the old ones when it was not accepted.
    """
    own = TaskSums(spec, meta_params, pre, post, inner, outer_loss=outer_loss, parallel_map=parallel_map)
    objective = MetaObjective(own)
    result = trpo(objective, settings)
    return (objective.meta_params(result.params) if result.accepted else meta_params), result
