"""What a learner computes for its own tasks: adapted policies, and sums over them for the meta-update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch

from maml_rl.learning.adaptation import adapt_in_chunks
from maml_rl.learning.batch import Samples, make_samples
from maml_rl.learning.guidance import Expert
from maml_rl.learning.losses import OuterLoss, clipped_surrogate_and_kl, surrogate_and_kl
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.task_tree import Share, Sums
from maml_rl.learning.trajectories import Extent, Trajectories, pool
from maml_rl.policies.policy import Params
from maml_rl.rllib.dispatch import Block
from maml_rl.rllib.rl_module import PolicyModule
from maml_rl.tools.threads import Map, threads_over_chunks

NumpyParams = dict[str, np.ndarray]


class LearnerShare:
    """The data of a learner's tasks, between the phases of an iteration.

    Args:
        config: a ``MAMLConfig``.
        module: has the meta-parameters.

    Attributes:
        expert: whom the outer loss imitates, if anybody.
    """

    def __init__(self, config: Any, module: PolicyModule, device: torch.device) -> None:
        self._config, self._module, self._device = config, module, device
        self.expert: Expert | None = None
        self._pre: list[Samples] = []

    def adapt(self, share: Share, blocks: Sequence[Block], extent: Extent, inner_step: int) -> NumpyParams:
        """Lines 6-7 for these tasks.

        Raises:
            NonFiniteError: as ``MAMLLearner.adapt``.
        """
        samples = self._samples(blocks, extent)
        self._pre = [*self._pre[:inner_step], samples]
        with threads_over_chunks() as parallel_map:
            adapted = adapt_in_chunks(
                self._module.spec,
                self._module.meta_params(),
                self._pre,
                self._config.inner_lr,
                parallel_map,
                share,
                self._samples_per_task(samples, extent),
            )
        _check_finite("adapted parameters", adapted, share.own.start)
        return to_numpy(adapted)

    def prepare(
        self,
        share: Share,
        blocks: Sequence[Block],
        extent: Extent,
        task_features: np.ndarray | None,
        parallel_map: Map | None = None,
    ) -> None:
        """Get ready for questions about this learner's tasks in the meta-update."""
        if parallel_map is None:
            with threads_over_chunks() as parallel_map:
                self.prepare(share, blocks, extent, task_features, parallel_map)
            return
        self.prepare_samples(share, self._samples(blocks, extent), extent, task_features, parallel_map)

    def prepare_samples(
        self,
        share: Share,
        post: Samples,
        extent: Extent,
        task_features: np.ndarray | None,
        parallel_map: Map,
    ) -> None:
        """The same with the samples drawn with the adapted policies."""
        outer_loss: OuterLoss = surrogate_and_kl
        if self.expert is not None:
            assert task_features is not None, "the expert has to be told the tasks"
            own = task_features[share.own.start : share.own.stop]
            post = self.expert.show(post, own, self._module.normalizer)
            outer_loss = self.expert.outer_loss
        elif self._config.outer_update == "ppo":
            outer_loss = clipped_surrogate_and_kl(self._config.clip_param, self._config.entropy_coeff)
        alone = len(post.weights) != len(share.own)  # one policy for all tasks
        self.sums = TaskSums(
            self._module.spec,
            self._module.meta_params(),
            self._pre,
            post,
            self._config.inner_update_settings(),
            outer_loss=outer_loss,
            parallel_map=parallel_map,
            share=None if alone else share,
            samples_per_task=self._samples_per_task(post, extent),
        )

    def release(self) -> None:
        """Forget what ``prepare`` made: its arrays are large."""
        del self.sums

    def answer(self, method: str, *arguments: Any) -> dict[range, np.ndarray]:
        """The sums over this learner's tasks that ``method`` of ``TaskSums`` gives."""
        tensors = [
            torch.from_numpy(x.copy()).to(self._device) if isinstance(x, np.ndarray) else x for x in arguments
        ]
        with threads_over_chunks() as self.sums.map:
            sums: Sums = getattr(self.sums, method)(*tensors)
        return {node: value.cpu().numpy() for node, value in sums.items()}

    def trajectories(self, blocks: Sequence[Block]) -> list[Trajectories]:
        """Of every task; those of all tasks as one if there is one policy for all."""
        trajectories: list[Trajectories] = []
        for _, block in blocks:
            trajectories += ray.get(block) if isinstance(block, ray.ObjectRef) else block
        for task, task_trajectories in enumerate(trajectories, blocks[0].tasks.start):
            if fault := task_trajectories.fault():
                raise NonFiniteError(f"task {task}: {fault}")
        if self._config.inner_steps == 0 and not self._config.learns_trials:
            trajectories = [pool(trajectories)]  # one policy for all tasks: one baseline, one standardisation
        return trajectories

    def _samples(self, blocks: Sequence[Block], extent: Extent) -> Samples:
        samples = make_samples(
            self.trajectories(blocks),
            self._module.spec,
            gamma=self._config.gamma,
            gae_lambda=self._config.gae_lambda,
            baseline_ridge=self._config.baseline_ridge,
            reward_scale=self.reward_scale,
            device=self._device,
            horizon=extent.longest,
        )
        # A baseline for each task, but one policy for the episodes of all.
        return samples.merged() if self._config.learns_trials else samples

    def _samples_per_task(self, samples: Samples, extent: Extent) -> int:
        """Of the task that has most, also among other learners' tasks; as ``samples`` count them."""
        if self._config.inner_steps == 0:  # one task, made of all
            return samples.weights.numel()
        return samples.weights.shape[1] * extent.longest if self._module.spec.recurrent else extent.most

    @property
    def reward_scale(self) -> float:
        """What rewards are divided by."""
        normalizer = self._module.normalizer
        return 1.0 if normalizer is None else normalizer.reward_scale


class NonFiniteError(ArithmeticError):
    """Data or a gradient is not finite: the update is refused."""


def _check_finite(what: str, params: Params, first_task: int) -> None:
    for name, value in params.items():
        bad = ~torch.isfinite(value.flatten(1)).all(-1)
        if bad.any():
            raise NonFiniteError(
                f"{what} of task {first_task + int(bad.nonzero()[0])} are not finite ({name})"
            )


def to_numpy(params: Params) -> NumpyParams:
    """Copies of the values."""
    # A copy: on the CPU the array would change with the next update.
    return {name: value.detach().cpu().numpy().copy() for name, value in params.items()}
