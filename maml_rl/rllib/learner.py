"""The learner actor: adapted policies and the meta-update, on whatever device RLlib gave it.

The first of several learners leads: it has PPO's and the critic's state, takes the steps, and asks the others, each
of which holds the trajectories of its own tasks alone, for sums over them: one vector of parameters a question.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModule

from maml_rl.envs.rollout import Phase, stream
from maml_rl.learning.critic import Critic
from maml_rl.learning.guidance import Expert
from maml_rl.learning.meta_update import MetaObjective, trpo
from maml_rl.learning.ppo import PPO
from maml_rl.learning.task_tree import Share, Sums, share_out
from maml_rl.learning.trajectories import Extent
from maml_rl.policies.normalizer import Normalizer
from maml_rl.policies.policy import Params
from maml_rl.policies.policy_file import STATE
from maml_rl.rllib.dispatch import Block
from maml_rl.rllib.learner_calls import wait_for
from maml_rl.rllib.learner_share import LearnerShare, NonFiniteError, NumpyParams, to_numpy
from maml_rl.rllib.rl_module import PolicyModule
from maml_rl.tools.threads import threads_over_chunks

MODULE = "default_policy"
_STATISTICS = "normalizer"


class MAMLLearner(TorchLearner):
    """RLlib learner whose update is one trust-region step on the meta-objective, or PPO's steps.

    ``adapt`` receives the trajectories of one inner step, whose samples stay in ``LearnerShare``; ``meta_update``
    receives the post-adaptation trajectories and uses them all.
    """

    def build(self) -> None:
        super().build()
        self._rl_module.set_meta_params(self._rl_module.spec.init_params(self._torch_seed(Phase.INIT)))
        self._others: list[Any] = []
        self._share = LearnerShare(self.config, self._rl_module, self.device)
        self._ppo: PPO | None = None
        self._critic: Critic | None = None
        if self.config.outer_update == "ppo":
            module = self._rl_module
            self._ppo = PPO(module.meta_params(), self.config.ppo_settings())
            if self.config.has_critic:
                self._critic = Critic(
                    module.spec,
                    horizon=self.config.horizon,
                    gamma=self.config.gamma,
                    gae_lambda=self.config.gae_lambda,
                    seed=self._torch_seed(Phase.CRITIC),
                    device=self.device,
                )

    def _make_modules_ddp_if_necessary(self) -> None:
        """Nothing: learners exchange sums over tasks, and torch has no gradients to average."""

    def lead(self, others: Sequence[Any]) -> None:
        """Share out the tasks among this learner and ``others``, actors that know what this one tells them."""
        self._others = list(others)

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
        return to_numpy(self._rl_module.meta_params()) | statistics

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
        if self._others:
            told = self.meta_params()
            for other in self._others:  # in order with later questions
                other.set_meta_params.remote(told)

    def set_expert(self, expert: Expert) -> None:
        """From now on the outer loss is imitation of ``expert``."""
        self._share.expert = expert.to(self.device)
        wait_for([other.set_expert.remote(expert) for other in self._others])()

    # --- lines 6-7

    def adapt(self, blocks: Sequence[Block], extent: Extent, inner_step: int) -> tuple[NumpyParams, float]:
        """Lines 6-7: every task's parameters after the inner steps so far.

        Args:
            blocks: trajectories (or references) of all tasks, drawn after ``inner_step`` inner steps.
            extent: their size.

        Returns:
            The adapted parameters stacked over tasks, and the seconds it took.

        Raises:
            NonFiniteError: a trajectory is not finite, or its policy has diverged; the message names the task.
            LearnerLostError: another learner died.
        """
        started = time.perf_counter()
        own, *others = self._shared_out(blocks)
        answers = self._start("adapt", [(*share, extent, inner_step) for share in others])
        parts = [self._share.adapt(*own, extent, inner_step), *answers()]
        adapted = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return adapted, time.perf_counter() - started

    def _shared_out(self, blocks: Sequence[Block]) -> list[tuple[Share, list[Block]]]:
        shares = share_out(blocks[-1].tasks.stop, 1 + len(self._others))
        return [(share, [block for block in blocks if block.tasks.start in share.own]) for share in shares]

    # --- line 10

    def meta_update(
        self,
        blocks: Sequence[Block],
        extent: Extent,
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
            NonFiniteError, LearnerLostError: as in ``adapt``, or the update is not finite. Nothing has changed.
        """
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(self._torch_seed(Phase.MINIBATCHES, iteration))
        # Copies: a refused update must leave no trace.
        critic, ppo = copy.deepcopy(self._critic), copy.deepcopy(self._ppo)
        metrics = {}
        own, *others = self._shared_out(blocks)
        answers = self._start("prepare", [(*share, extent, task_features) for share in others])
        with threads_over_chunks() as parallel_map:
            if critic is not None:
                (trajectories,) = self._share.trajectories(own[1])
                scale = self._share.reward_scale
                post, metrics["explained_variance"] = critic.judge(trajectories, generator, scale)
                self._share.prepare_samples(own[0], post, extent, task_features, parallel_map)
            else:
                self._share.prepare(*own, extent, task_features, parallel_map)
            answers()
            objective = MetaObjective(self._share.sums, self._ask_others)
            step = (
                trpo(objective, self.config.meta_update_settings())
                if ppo is None
                else ppo.update(objective, generator)
            )
        if not np.isfinite(step.gradient_norm):
            raise NonFiniteError("the meta-gradient is not finite")
        self._share.release()
        self._start("release", [() for _ in self._others])
        self._critic, self._ppo = critic, ppo
        if step.accepted:
            self._set_theta(objective.meta_params(step.params))
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

    def on_share(self, method: str, *arguments: Any) -> Any:
        """What the leader asks of this learner's own tasks."""
        return getattr(self._share, method)(*arguments)

    def _ask_others(self, method: str, *arguments: Any) -> Callable[[], Sequence[Sums]]:
        arrays = [x.cpu().numpy() if isinstance(x, torch.Tensor) else x for x in arguments]
        answers = self._start("answer", [(method, *arrays) for _ in self._others])
        return lambda: [{node: torch.from_numpy(x) for node, x in sums.items()} for sums in answers()]

    def _start(self, method: str, of_each: Sequence[tuple[Any, ...]]) -> Callable[[], list[Any]]:
        """Have the other learners, or the first of them, call a method of their share; gives their results."""
        calls = zip(self._others, of_each, strict=False)
        return wait_for([other.on_share.remote(method, *arguments) for other, arguments in calls])
