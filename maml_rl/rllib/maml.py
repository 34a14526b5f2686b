"""``MAML``: Algorithm 3 of Finn et al. 2017 as an RLlib algorithm."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.exceptions import ObjectLostError, RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.tune.registry import register_trainable
from ray.tune.result import TRAINING_ITERATION

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import Phase
from maml_rl.policies.policy_file import STATE
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.env_runner import Block, RolloutSummary, collect, sampling_phase
from maml_rl.rllib.expert import load_expert
from maml_rl.rllib.learner import NonFiniteError, NumpyParams
from maml_rl.rllib.learner_calls import LearnerLostError, call_learner
from maml_rl.rllib.resources import check_resources

logger = logging.getLogger("maml_rl")

MAX_REFUSALS = 3
"""Consecutive refused updates after which a run stops: the data will not get better by themselves."""


MAX_ATTEMPTS = 3
"""Attempts at an iteration whose trajectories or learner are lost."""
LIFETIME_STEPS = ("env_runners", "num_env_steps_sampled_lifetime")


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands after an iteration.

    Attributes:
        refusals: consecutive refused updates.
        env_steps: environment steps in all.
        learned: the meta-parameters and what PPO and its critic remember, by name.
    """

    iteration: int
    refusals: int
    env_steps: int
    learned: NumpyParams


class MAML(Algorithm):
    """Model-agnostic meta-learning with a TRPO meta-update.

    One call of ``train()`` is one meta-update. Its result holds ``return_pre`` and ``return_post`` (mean return
    of an episode before and after adaptation), ``kl``, ``loss_before``, ``loss_after`` and the seconds spent in
    ``rollouts``, ``adaptation`` and ``meta_update``.
    """

    config: MAMLConfig
    learner_group: LearnerGroup

    @classmethod
    def get_default_config(cls) -> MAMLConfig:
        return MAMLConfig()

    def setup(self, config: MAMLConfig) -> None:
        check_resources(self.config)
        # An environment that cannot be made is reported from here, not from the logs of a dead actor.
        env = make_task_env(self.config.env, 1, self.config.horizon, self.config.env_config)
        expert = None
        if self.config.expert:
            expert = load_expert(
                Path(self.config.expert),
                env,
                std_scale=self.config.expert_std_scale,
                clip=self.config.expert_clip,
            )
        env.close()
        self._refusals = 0
        self._measured: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._expert = expert
        super().setup(config)
        self._brief_learner()

    def training_step(self) -> None:
        """One meta-update; run again from its start if trajectories or the learner were lost with their node."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._measured.clear()
            try:
                self._meta_iteration()
                break
            except (ObjectLostError, LearnerLostError) as error:
                # Nothing but the last line changes theta, and every random stream is named: the same again.
                logger.warning("iteration %d is run again: %s", self.iteration, error)
                if attempt == MAX_ATTEMPTS:
                    raise
                if isinstance(error, LearnerLostError):
                    self._restart_learner()
        for args, how in self._measured:  # only now: an iteration that is run again counts once
            self.metrics.log_value(*args, **how)

    def _meta_iteration(self) -> None:
        """Algorithm 3, lines 3-10."""
        tasks = self._sample_tasks()  # line 3
        try:
            params = {name: value[None] for name, value in self.meta_params().items()}
            for inner_step in range(self.config.inner_steps):
                trajectories = self._collect(tasks, params, inner_step)  # line 5
                params = self._adapt(trajectories, inner_step)  # lines 6-7
            trajectories = self._collect(tasks, params, self.config.inner_steps)  # line 8
            self._meta_update(trajectories, tasks)  # line 10
            self._refusals = 0
        except NonFiniteError as error:
            self._refuse(error, tasks)
        self._log("update_refused", float(self._refusals > 0))

    def meta_params(self) -> NumpyParams:
        """theta, and the learned step sizes if any, as numpy arrays by name."""
        return {name: value for name, value in self._learned.items() if not name.startswith(STATE)}

    def set_meta_params(self, params: NumpyParams) -> None:
        """Go on from other meta-parameters, all or some of those that ``meta_params`` returns."""
        self._on_learner("set_meta_params", params=params)
        self._learned = self._on_learner("training_state")

    def training_state(self) -> TrainingState:
        """All that later iterations depend on; it does not need the learner to be alive."""
        return TrainingState(self.iteration, self._refusals, self._env_steps(), dict(self._learned))

    def set_training_state(self, state: TrainingState) -> None:
        """Go on from what ``training_state`` returned, bit for bit as if there had been no break."""
        self._on_learner("set_training_state", state=state.learned)
        self._learned = dict(state.learned)
        self._refusals = state.refusals
        super().set_state({TRAINING_ITERATION: state.iteration})
        missing = state.env_steps - self._env_steps()
        self.metrics.log_value(LIFETIME_STEPS, missing, reduce="lifetime_sum")

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's way to go on from a checkpoint of its own."""
        super().set_state(state)
        self._learned = self._on_learner("training_state")

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> RLModule | None:
        """The policy with the present meta-parameters (unadapted), for inference."""
        if module_id != DEFAULT_MODULE_ID:
            return None
        spec = self.config.get_multi_rl_module_spec(spaces=self.spaces)
        module = spec.rl_module_specs[DEFAULT_MODULE_ID].build()
        module.set_meta_params({name: torch.from_numpy(v) for name, v in self.meta_params().items()})
        return module

    # --- the lines of the algorithm

    def _sample_tasks(self) -> np.ndarray:
        runner = self.env_runner_group.local_env_runner
        return runner.sample_tasks(self.config.meta_batch_size, self.config.seed, Phase.TASKS, self.iteration)

    def _collect(self, tasks: np.ndarray, params: NumpyParams, inner_step: int) -> list[Block]:
        started = time.perf_counter()
        summaries, blocks = collect(
            self.env_runner_group,
            tasks,
            params,
            seed=self.config.seed,
            phase=sampling_phase(self.iteration, inner_step),
            timeout_s=self.config.sample_timeout_s,
        )
        self._log_rollouts(summaries, inner_step, time.perf_counter() - started)
        return blocks

    def _adapt(self, trajectories: list[Block], inner_step: int) -> NumpyParams:
        params, timings = self._on_learner("adapt", blocks=trajectories, inner_step=inner_step)
        self._log_seconds(timings)
        return params

    def _meta_update(self, trajectories: list[Block], tasks: np.ndarray) -> None:
        features = None
        if self.config.expert:
            env = self.env_runner_group.local_env_runner.env
            features = np.stack([env.task_features(task) for task in tasks])
        metrics = self._on_learner(
            "meta_update", blocks=trajectories, iteration=self.iteration, task_features=features
        )
        self._learned = self._on_learner("training_state")
        self._log_seconds({"meta_update": metrics.pop("meta_update")})
        for name, value in metrics.items():
            self._log(name, value)

    def _refuse(self, error: NonFiniteError, tasks: np.ndarray) -> None:
        self._refusals += 1
        logger.warning(
            "iteration %d: the update is refused and the parameters stay as they were: %s; tasks: %s",
            self.iteration,
            error,
            np.array2string(np.asarray(tasks), threshold=8, precision=4).replace("\n", ""),
        )
        if self._refusals >= MAX_REFUSALS:
            raise NonFiniteError(f"{self._refusals} consecutive updates were refused; the last: {error}")

    def _on_learner(self, method: str, **kwargs: Any) -> Any:
        return call_learner(self.learner_group, method, **kwargs)

    def _brief_learner(self, learned: NumpyParams | None = None) -> None:
        """Tell a new learner what it has to know: its expert, and where the training stands."""
        if self._expert is not None:
            self._on_learner("set_expert", expert=self._expert)
        if learned is not None:
            self._on_learner("set_training_state", state=learned)
        self._learned = self._on_learner("training_state")

    def _restart_learner(self) -> None:
        """A new actor in place of a lost one, with the state after the last finished iteration.

        Raises:
            ResourceError: the cluster no longer has what the learner asks for.
        """
        logger.warning("the learner is started again")
        with contextlib.suppress(RayError):  # of what is left of the old one
            self.learner_group.shutdown()
        check_resources(self.config, env_runners=False)
        spec = self.config.get_multi_rl_module_spec(spaces=self.spaces)
        self.learner_group = self.config.build_learner_group(rl_module_spec=spec)
        self._brief_learner(self._learned)

    # --- metrics

    def _log(self, name: str | tuple[str, ...], value: float) -> None:
        self._measure(name, value, window=1)

    def _measure(self, *args: Any, **how: Any) -> None:
        self._measured.append((args, how))

    def _log_seconds(self, seconds: dict[str, float]) -> None:
        for name, value in seconds.items():
            self._measure(("seconds", name), value, reduce="sum")

    def _log_rollouts(self, summaries: list[RolloutSummary], inner_step: int, seconds: float) -> None:
        returns = [value for summary in summaries for value in summary.returns]
        mean = float(np.mean(returns))
        if inner_step == 0:
            self._log("return_pre", mean)
        if inner_step == self.config.inner_steps:
            self._log("return_post", mean)
            self._log(("env_runners", "episode_return_mean"), mean)  # RLlib's name for "the" return
        self._log_seconds({"rollouts": seconds})
        steps = sum(summary.env_steps for summary in summaries)
        self._measure("env_steps", steps, reduce="sum")
        self._measure(LIFETIME_STEPS, steps, reduce="lifetime_sum")
        diverged = sum(summary.diverged_episodes for summary in summaries)
        self._measure("diverged_episodes", diverged, reduce="sum")

    def _env_steps(self) -> int:
        return int(self.metrics.peek(LIFETIME_STEPS, default=0))

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        return False


register_trainable("MAML", MAML)
