"""``MAML``: Algorithm 3 of Finn et al. 2017 as an RLlib algorithm."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError, RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune import PlacementGroupFactory
from ray.tune.registry import register_trainable
from ray.tune.result import TRAINING_ITERATION

from maml_rl.envs import GymTaskEnv
from maml_rl.envs.episode_info import SUCCESS_RATE
from maml_rl.envs.rollout import Phase
from maml_rl.envs.statefulness import find_memory
from maml_rl.policies.meta_params import theta_of
from maml_rl.policies.normalizer import Normalizer
from maml_rl.policies.policy_file import STATE
from maml_rl.rllib.activity import Activity, ClusterMetrics
from maml_rl.rllib.advice import Advice
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.dispatch import collect
from maml_rl.rllib.env_registry import make_env, reason_of_no_runner
from maml_rl.rllib.env_runner import NoRunnerError, RunnerGroup, runners_of_our_own
from maml_rl.rllib.expert import load_expert
from maml_rl.rllib.learner_calls import LearnerLostError, call_learner
from maml_rl.rllib.learner_share import NonFiniteError, NumpyParams
from maml_rl.rllib.learner_team import LearnerTeam
from maml_rl.rllib.metrics import LIFETIME_STEPS, Trials, log_update
from maml_rl.rllib.resources import ResourceError, a_long_start_is_explained, check_resources, fits
from maml_rl.rllib.runner_pool import RunnerPool
from maml_rl.rllib.sizes import check_sizes
from maml_rl.tools.ray_start import start_ray
from maml_rl.tools.time_limit import time_limit

logger = logging.getLogger("maml_rl")

Result = TypeVar("Result")

MAX_REFUSALS = 3
"""Consecutive refused updates after which a run stops: the data will not get better by themselves."""
MAX_ATTEMPTS = 5
"""Attempts at an iteration whose trajectories or learner are lost."""
RESTART_S = 60.0
"""Seconds in which a lost learner must be in service again."""

_MEMORY = (
    "%s: %s differ between two episodes of the same task, seed and actions; what survives a reset, such as the "
    "statistics of a normalising wrapper or a generator that reset(seed=...) does not seed, makes results depend "
    "on how many runners there are and on which of them ran what"
)


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
    learner_group: LearnerTeam
    env_runner_group: RunnerGroup

    @classmethod
    def get_default_config(cls) -> MAMLConfig:
        return MAMLConfig()

    @staticmethod
    def _get_env_id_and_creator(env_specifier: Any, config: AlgorithmConfig) -> tuple[Any, Any]:
        """RLlib's creator is not used, and would refuse functions: runners make their environment themselves."""
        return env_specifier, make_env

    def setup(self, config: MAMLConfig) -> None:
        start_ray(None)  # where the program has not: as RLlib's own algorithms do
        check_resources(self.config)
        # An environment that cannot be made is reported from here, not from the logs of a dead actor.
        with time_limit(
            self.config.sample_timeout_s, "the environment did not start within sample_timeout_s"
        ):
            env = make_env(self.config, 1)
            policy = self.config.policy_spec(env.single_observation_space, env.single_action_space)
            check_sizes(self.config, policy)
            if isinstance(env, GymTaskEnv) and (what := find_memory(env)):
                logger.warning(_MEMORY, self.config.env, what)
        expert = None
        if self.config.expert:
            expert = load_expert(
                self.config.expert,
                env,
                std_scale=self.config.expert_std_scale,
                clip=self.config.expert_clip,
                recurrent=policy.recurrent,
            )
        env.close()
        # Of an environment that tells anything a result always says whether it told a success.
        self._info_names = dict.fromkeys([SUCCESS_RATE] if env.reports_info else [])
        self._refusals = 0
        self._advice = Advice()
        self._expert = expert
        try:
            with a_long_start_is_explained(self.config), runners_of_our_own():
                super().setup(config)
                self.env_runner_group.await_runners()
        except NoRunnerError as error:
            raise RuntimeError(reason_of_no_runner(self.config)) from error
        self._runners = RunnerPool(self.env_runner_group)
        self._activity = Activity()
        self._cluster_metrics = ClusterMetrics(str(self.config.env))
        self._brief_learner()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another configuration, as Ray Tune asks of a trial that goes on in this process."""
        self.cleanup()
        self.config = self.get_default_config().update_from_dict(new_config)
        self.config.validate()
        self.config.freeze()
        self.setup(self.config)
        return True

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Take back runners that answer again, without waiting; they have no state to be given."""
        return self._runners.look()

    def training_step(self) -> None:
        """One meta-update; run again from its start if trajectories or the learner were lost with their node."""
        self._activity = Activity()
        trials, update = self._until_nothing_is_lost(self._meta_iteration)
        # Only now: an iteration that is run again counts once.
        trials.log(self.metrics, self._last, self._info_names_with(trials))
        self.metrics.log_value(LIFETIME_STEPS, trials.env_steps, reduce="lifetime_sum")
        log_update(self.metrics, update, with_critic=self.config.has_critic)
        self._advice.look(trials, update)
        self.metrics.log_value("update_refused", float(self._refusals > 0), window=1)
        self._activity.log(self.metrics)
        self._cluster_metrics.report(
            {
                **self._activity.numbers(),
                **trials.numbers(self._last),
                "iterations": 1,
                "kl": update.get("kl", math.nan),
                "meta_update_s": update.get("meta_update", 0.0),
                "refused_updates": int(self._refusals > 0),
            }
        )

    def _meta_iteration(self) -> tuple[Trials, dict[str, float]]:
        """Algorithm 3, lines 3-10: the episodes, and the update's metrics, none if it was refused."""
        tasks = self._sample_tasks(self.config.meta_batch_size, Phase.TASKS, self.iteration)  # line 3
        trials = Trials()
        try:
            self._look_around(trials, tasks)
            self._run_trials(trials, tasks, (Phase.ROLLOUT, self.iteration))  # lines 4-8
            update = self._meta_update(trials, tasks)  # line 10
        except NonFiniteError as error:
            self._refuse(error, tasks)
            return trials, {}
        self._refusals = 0
        return trials, update

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Adapt to ``evaluation_duration`` held-out tasks, the same in every evaluation; theta stays as it is.

        Returns:
            ``return_pre`` and ``return_post`` as in training, ``returns`` after 0, 1, ... gradient steps (of RL2,
            of episode 1, 2, ...), and what callbacks logged under ``env_runners``. A task whose data are not finite
            leaves NaN.
        """
        config = self.config
        self._call_back("on_evaluate_start")
        trials = self._until_nothing_is_lost(self._held_out_trials)
        logger = MetricsLogger(stats_cls_lookup=config.stats_cls_lookup, root=True)
        trials.log(logger, self._last, self._info_names_with(trials))
        missing = self._last + 1 - len(trials.returns)
        results = {**logger.peek(), "returns": trials.returns + [math.nan] * missing}
        self._call_back("on_evaluate_end", evaluation_metrics=results)
        return results

    @property
    def _last(self) -> int:
        """Where the return after adaptation stands among a trial's returns."""
        return self.config.inner_steps or self.config.trial_episodes - 1

    def _info_names_with(self, trials: Trials) -> list[str]:
        """The numbers in ``info`` that were told so far: they stay in every later result."""
        self._info_names |= dict.fromkeys(name for told in trials.infos for name in told)
        return list(self._info_names)

    def _held_out_trials(self) -> Trials:
        tasks = self._sample_tasks(self.config.evaluation_duration, Phase.VALIDATION)
        trials = Trials()
        try:
            self._run_trials(trials, tasks, (Phase.VALIDATION, 1))
        except NonFiniteError as error:
            logger.warning("evaluation after iteration %d is without a result: %s", self.iteration, error)
        return trials

    def _until_nothing_is_lost(self, work: Callable[[], Result]) -> Result:
        """Run again what lost trajectories or the learner: the same again, for every random stream is named."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return work()
            except (ObjectLostError, LearnerLostError) as error:
                # Nothing but the last line of an iteration changes theta.
                logger.warning("iteration %d is run again: %s", self.iteration, error)
                if attempt == MAX_ATTEMPTS:
                    raise
                if isinstance(error, LearnerLostError):
                    self._restart_learner()
        raise AssertionError("not reached")

    def meta_params(self) -> NumpyParams:
        """theta, and the learned step sizes and running statistics if any, as numpy arrays by name."""
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

    def _sample_tasks(self, n: int, *key: int) -> np.ndarray:
        runner = self._runners.local
        limit_s = self.config.sample_timeout_s
        with time_limit(
            limit_s, f"the environment's sample_tasks took longer than sample_timeout_s={limit_s:g} s"
        ):
            return runner.sample_tasks(n, self.config.seed, *key)

    @property
    def _normalizer(self) -> Normalizer | None:
        return Normalizer.from_arrays(self._learned)

    def _look_around(self, trials: Trials, tasks: np.ndarray) -> None:
        """Episodes of the first policy to begin with, for their observations and returns: what to normalise by."""
        if self._normalizer is None or not self._normalizer.has_seen_nothing:
            return
        first = Trials()
        self._collect(first, tasks, self._shared_params(), (Phase.NORMALIZER, self.iteration))
        trials.env_steps += first.env_steps
        trials.episodes += first.episodes
        if any(not np.isfinite(x).all() for seen in first.seen for x in seen.as_arrays().values()):
            raise NonFiniteError("observations or rewards hold a NaN or an infinity")
        self._on_learner("see", others=first.seen)
        self._learned = self._on_learner("training_state")

    def _shared_params(self) -> NumpyParams:
        """Those of one policy for all tasks."""
        return {name: value[None] for name, value in theta_of(self.meta_params()).items()}

    def _run_trials(self, trials: Trials, tasks: np.ndarray, streams: tuple[int, ...]) -> None:
        """Lines 4-8: adapt to each task on episodes of its own, then collect those of the adapted policies."""
        params = self._shared_params()
        for inner_step in range(self.config.inner_steps):
            self._collect(trials, tasks, params, (*streams, inner_step))  # line 5
            params, seconds = self._on_learner(
                "adapt", blocks=trials.blocks, extent=trials.extent, inner_step=inner_step
            )  # lines 6-7
            trials.seconds["adaptation"] += seconds
        self._collect(trials, tasks, params, (*streams, self.config.inner_steps))  # line 8

    def _collect(
        self, trials: Trials, tasks: np.ndarray, params: NumpyParams, streams: tuple[int, ...]
    ) -> None:
        started = time.perf_counter()
        summaries, blocks = collect(
            self._runners,
            tasks,
            params,
            seed=self.config.seed,
            phase=streams,
            timeout_s=self.config.sample_timeout_s,
            normalizer=self._normalizer,
            learners=max(1, self.config.num_learners),
            activity=self._activity,
        )
        trials.add(summaries, blocks, time.perf_counter() - started)

    def _meta_update(self, trials: Trials, tasks: np.ndarray) -> dict[str, float]:
        features = None
        if self.config.expert:
            env = self._runners.local.env
            features = np.stack([env.task_features(task) for task in tasks])
        metrics = self._on_learner(
            "meta_update",
            blocks=trials.blocks,
            extent=trials.extent,
            iteration=self.iteration,
            task_features=features,
            seen=trials.seen,
        )
        self._learned = self._on_learner("training_state")
        return metrics

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

        For a while it is tried again: a cluster sends actors to a node until it notices that the node is gone, and
        other nodes may join.

        Raises:
            ResourceError: the cluster no longer has what the learner asks for.
            LearnerLostError: no new actor stays alive.
        """
        give_up, pause_s = time.monotonic() + RESTART_S, 1.0
        while True:
            logger.warning("the learner is started again")
            with contextlib.suppress(RayError):  # of what is left of the old one
                self.learner_group.shutdown()
            try:
                check_resources(self.config, env_runners=False)
                spec = self.config.get_multi_rl_module_spec(spaces=self.spaces)
                self.learner_group = self.config.build_learner_group(rl_module_spec=spec)
                self._brief_learner(self._learned)
                self._activity.learner_restarts += 1
                return
            except (ResourceError, LearnerLostError, RayError) as error:
                if time.monotonic() + pause_s > give_up:
                    if isinstance(error, RayError):
                        reason = f"the learner could not be started again ({type(error).__name__})"
                        raise LearnerLostError(reason) from error
                    raise
                logger.warning("not yet: %s", str(error).partition("\n")[0])
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10.0)

    def _call_back(self, event: str, **kwargs: Any) -> None:
        make_callback(
            event,
            callbacks_objects=self.callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{event}"),
            kwargs={"algorithm": self, "metrics_logger": self.metrics, **kwargs},
        )

    def __repr__(self) -> str:
        # Also of an algorithm that was not set up to the end.
        config = getattr(self, "config", None)
        return f"{type(self).__name__}(env={getattr(config, 'env', None)!r})"

    def _env_steps(self) -> int:
        return int(self.metrics.peek(LIFETIME_STEPS, default=0))

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """What a trial of Ray Tune reserves.

        For one that cannot run as little as there is: it starts and says in ``setup`` what is wrong with it, where
        an error here would end the whole search, and too large a request would wait for ever.
        """
        nothing = PlacementGroupFactory([{"CPU": 1}])
        try:
            request = super().default_resource_request(config)
        except Exception:  # whatever a configuration made of anything raises
            return nothing
        return request if not ray.is_initialized() or fits(request) else nothing

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        return False


MAMLConfig.algorithm = MAML
register_trainable("MAML", MAML)
