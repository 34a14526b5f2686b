"""The learner actor: adapted policies and the meta-update, on whatever device RLlib gave it."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModule

from maml_rl.envs.rollout import Phase, stream
from maml_rl.learning.batch import Samples, make_samples
from maml_rl.learning.critic import Critic
from maml_rl.learning.guidance import Expert
from maml_rl.learning.losses import OuterLoss, clipped_surrogate_and_kl, surrogate_and_kl
from maml_rl.learning.meta_update import adapt_in_chunks, meta_update
from maml_rl.learning.ppo import PPO
from maml_rl.learning.trajectories import Trajectories, pool
from maml_rl.learning.trpo import StepResult
from maml_rl.policies.normalizer import Normalizer
from maml_rl.policies.policy import Params
from maml_rl.policies.policy_file import STATE
from maml_rl.rllib.dispatch import Block
from maml_rl.rllib.rl_module import PolicyModule
from maml_rl.tools.threads import threads_over_chunks

MODULE = "default_policy"
NumpyParams = dict[str, np.ndarray]
_STATISTICS = "normalizer"


class MAMLLearner(TorchLearner):
    """RLlib learner whose update is one trust-region step on the meta-objective, or PPO's steps.

    ``adapt`` receives the trajectories of one inner step and keeps its samples; ``meta_update`` receives the
    post-adaptation trajectories and uses them all.
    """

    def build(self) -> None:
        super().build()
        self._rl_module.set_meta_params(self._rl_module.spec.init_params(self._torch_seed(Phase.INIT)))
        self._pre: list[Samples] = []
        self._expert: Expert | None = None
        self._ppo: PPO | None = None
        self._critic: Critic | None = None
        if self.config.outer_update == "ppo":
            module = self._rl_module
            self._ppo = PPO(module.spec, module.meta_params(), self.config.ppo_settings())
            if self.config.has_critic:
                self._critic = Critic(
                    module.spec,
                    horizon=self.config.horizon,
                    gamma=self.config.gamma,
                    gae_lambda=self.config.gae_lambda,
                    seed=self._torch_seed(Phase.CRITIC),
                    device=self.device,
                )

    def _torch_seed(self, *key: int) -> int:
        """What a generator of torch's is seeded with, from the stream ``key``."""
        return int(stream(self.config.seed, *key).generate_state(1)[0])

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """RLlib's state of a learner, that of PPO and its critic, and running statistics."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        for name, part in self._stateful_parts().items():
            if self._check_component(name, components, not_components):
                state[name] = part.state()
        # RLlib's state of a module is of single precision.
        if (normalizer := self._rl_module.normalizer) is not None and self._check_component(
            _STATISTICS, components, not_components
        ):
            state[_STATISTICS] = normalizer.as_arrays()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``get_state`` returned."""
        super().set_state(state)
        for name, part in self._stateful_parts().items():
            if name in state:
                part.set_state(state[name])
        if _STATISTICS in state:
            self.set_meta_params(state[_STATISTICS])

    def training_state(self) -> NumpyParams:
        """All that later updates depend on: the meta-parameters, and ``state/PART/...`` of PPO and its critic."""
        parts = {name: part.state() for name, part in self._stateful_parts().items()}
        remembered = {
            f"{STATE}{name}/{key}": value for name, state in parts.items() for key, value in state.items()
        }
        return self.meta_params() | remembered

    def set_training_state(self, state: NumpyParams) -> None:
        """Go on from what ``training_state`` returned."""
        self.set_meta_params({name: value for name, value in state.items() if not name.startswith(STATE)})
        for name, part in self._stateful_parts().items():
            prefix = f"{STATE}{name}/"
            part.set_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _stateful_parts(self) -> dict[str, PPO | Critic]:
        parts = {"ppo": self._ppo, "critic": self._critic}
        return {name: part for name, part in parts.items() if part is not None}

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """None: the trust-region step has no optimiser state, and PPO keeps its own."""

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        raise RuntimeError("MAMLLearner is updated through adapt() and meta_update()")

    def rl_module_is_compatible(self, module: RLModule) -> bool:
        return isinstance(module, PolicyModule)

    @property
    def _rl_module(self) -> PolicyModule:
        module: PolicyModule = self.module[MODULE]
        return module

    def meta_params(self) -> NumpyParams:
        """The meta-parameters theta (and learned step sizes, running statistics), as numpy arrays."""
        normalizer = self._rl_module.normalizer
        statistics = {} if normalizer is None else normalizer.as_arrays()
        return _to_numpy(self._rl_module.meta_params()) | statistics

    def see(self, others: Sequence[Normalizer]) -> None:
        """Merge what was seen of observations and returns, in order."""
        normalizer = self._rl_module.normalizer
        assert normalizer is not None
        self.set_meta_params(normalizer.merged(others).as_arrays())

    def set_meta_params(self, params: NumpyParams) -> None:
        """Go on from other meta-parameters."""
        self._set_theta({name: torch.from_numpy(value.copy()) for name, value in params.items()})

    def _set_theta(self, params: Params) -> None:
        self._rl_module.set_meta_params(params)
        self._weights_seq_no += 1

    def set_expert(self, expert: Expert) -> None:
        """From now on the outer loss is imitation of ``expert``."""
        self._expert = expert.to(self.device)

    def adapt(self, blocks: Sequence[Block], inner_step: int) -> tuple[NumpyParams, float]:
        """Lines 6-7: every task's parameters after the inner steps so far.

        Args:
            blocks: trajectories (or references) of all tasks, drawn after ``inner_step`` inner steps.

        Returns:
            The adapted parameters stacked over tasks, and the seconds it took.

        Raises:
            NonFiniteError: a trajectory is not finite, or its policy has diverged; the message names the task.
        """
        started = time.perf_counter()
        samples = self._samples(blocks)
        self._pre = [*self._pre[:inner_step], samples]
        with threads_over_chunks() as parallel_map:
            adapted = adapt_in_chunks(
                self._rl_module.spec,
                self._rl_module.meta_params(),
                self._pre,
                self.config.inner_lr,
                parallel_map,
            )
        _check_finite("adapted parameters", adapted)
        return _to_numpy(adapted), time.perf_counter() - started

    def meta_update(
        self,
        blocks: Sequence[Block],
        iteration: int,
        task_features: np.ndarray | None = None,
        seen: Sequence[Normalizer] = (),
    ) -> dict[str, float]:
        """Line 10: one update of theta; returns its metrics.

        Args:
            iteration: names the random stream of the minibatches.
            task_features: ``[tasks, features]``, for the expert if there is one.
            seen: what this iteration adds to the normalizer, for the next one.

        Raises:
            NonFiniteError: as in ``adapt``, or the update is not finite. Nothing has changed then.
        """
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(self._torch_seed(Phase.MINIBATCHES, iteration))
        # Copies: a refused update must leave no trace.
        critic, ppo = copy.deepcopy(self._critic), copy.deepcopy(self._ppo)
        metrics = {}
        if critic is not None:
            (trajectories,) = self._trajectories(blocks)
            post, metrics["explained_variance"] = critic.judge(trajectories, generator, self._reward_scale)
        else:
            post = self._samples(blocks)
        outer_loss: OuterLoss = surrogate_and_kl
        if self._expert is not None:
            assert task_features is not None, "the expert has to be told the tasks"
            post = self._expert.show(post, task_features, self._rl_module.normalizer)
            outer_loss = self._expert.outer_loss
        elif ppo is not None:
            outer_loss = clipped_surrogate_and_kl(self.config.clip_param, self.config.entropy_coeff)
        params, step = (
            self._trpo(post, outer_loss)
            if ppo is None
            else ppo.update(self._rl_module.meta_params(), self._pre, post, outer_loss, generator)
        )
        if not np.isfinite(step.gradient_norm):
            raise NonFiniteError("the meta-gradient is not finite")
        self._critic, self._ppo = critic, ppo
        self._set_theta(params)
        if seen:
            self.see(seen)
        return {
            **metrics,
            "loss_before": step.loss_before,
            "loss_after": step.loss_after,
            "kl": step.kl,
            "step_accepted": float(step.accepted),
            "backtracks": step.backtracks,
            "gradient_norm": step.gradient_norm,
            "meta_update": time.perf_counter() - started,
        }

    def _trpo(self, post: Samples, outer_loss: OuterLoss) -> tuple[Params, StepResult]:
        with threads_over_chunks() as parallel_map:
            return meta_update(
                self._rl_module.spec,
                self._rl_module.meta_params(),
                self._pre,
                post,
                self.config.meta_update_settings(),
                parallel_map,
                outer_loss,
            )

    def _trajectories(self, blocks: Sequence[Block]) -> list[Trajectories]:
        """Of every task; those of all tasks as one if there is one policy for all."""
        trajectories: list[Trajectories] = []
        for block in blocks:
            trajectories += ray.get(block) if isinstance(block, ray.ObjectRef) else block
        for task, task_trajectories in enumerate(trajectories):
            if fault := task_trajectories.fault():
                raise NonFiniteError(f"task {task}: {fault}")
        if self.config.inner_steps == 0 and not self.config.learns_trials:
            trajectories = [pool(trajectories)]  # one policy for all tasks: one baseline, one standardisation
        return trajectories

    def _samples(self, blocks: Sequence[Block]) -> Samples:
        samples = make_samples(
            self._trajectories(blocks),
            self._rl_module.spec,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            baseline_ridge=self.config.baseline_ridge,
            reward_scale=self._reward_scale,
            device=self.device,
        )
        # A baseline for each task, but one policy for the episodes of all.
        return samples.merged() if self.config.learns_trials else samples

    @property
    def _reward_scale(self) -> float:
        normalizer = self._rl_module.normalizer
        return 1.0 if normalizer is None else normalizer.reward_scale


class NonFiniteError(ArithmeticError):
    """Data or a gradient is not finite: the update is refused."""


def _check_finite(what: str, params: Params) -> None:
    for name, value in params.items():
        bad = ~torch.isfinite(value.flatten(1)).all(-1)
        if bad.any():
            raise NonFiniteError(f"{what} of task {int(bad.nonzero()[0])} are not finite ({name})")


def _to_numpy(params: Params) -> NumpyParams:
    # A copy: on the CPU the array would change with the next update.
    return {name: value.detach().cpu().numpy().copy() for name, value in params.items()}
