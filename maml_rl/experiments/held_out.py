"""The paper's evaluation of a trained policy: which tasks, how many episodes, which step sizes."""

from __future__ import annotations

from contextlib import closing
from functools import cached_property, partial
from typing import Any

import numpy as np

from maml_rl.envs import TaskVectorEnv, check_may_import, make_task_env
from maml_rl.envs.rollout import Phase, stream
from maml_rl.experiments.evaluation import Protocol, Tasks
from maml_rl.experiments.methods import GUIDED, METHODS
from maml_rl.experiments.presets import Return, TestTasks, get_experiment
from maml_rl.policies.heads import GaussianHead
from maml_rl.policies.module_policy import UnknownModule
from maml_rl.policies.policy import Policy
from maml_rl.policies.policy_file import PolicyFile
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.policy_builder import module_name
from maml_rl.tools.checks import COUNT, POSITIVE, SEED, checked
from maml_rl.tools.memory_size import Need, check_fits, total_memory
from maml_rl.tools.time_limit import SAMPLE_TIMEOUT_S, time_limit


class HeldOut:
    """How a policy is measured on tasks it was not trained on.

    Args:
        policy: what ``load_policy`` read.
        steps: gradient steps; None is 3, or 0 for a policy that is not adapted.
        inner_lr: first step size; None is the one the policy was trained with.
        episodes: episodes per task and step; None is the paper's number for the preset.
        tasks: number of tasks, drawn with ``seed``; None is the paper's own 40 tasks.
        seed: of the rollouts.
        env: the policy's environment, where that is not the package's own: files do not choose what is imported.
        module: likewise the policy's network, where it is a module.
        sample_timeout_s: longest time that the environment may take over one task's episodes.
        deterministic: measure the mean actions, in episodes of their own.

    Raises:
        ValueError: a number is out of range or asks for more memory than there is, or the policy is not adapted but
            ``steps`` were given.
        UntrustedEnvError: the policy names an environment that ``env`` does not.
        ModuleError: likewise a network, or it is not that of the file.
    """

    def __init__(
        self,
        policy: PolicyFile,
        *,
        steps: int | None = None,
        inner_lr: float | None = None,
        episodes: int | None = None,
        tasks: int | None = None,
        seed: int = 0,
        env: str | None = None,
        module: Any = None,
        sample_timeout_s: float = SAMPLE_TIMEOUT_S,
        deterministic: bool = False,
    ) -> None:
        self.info = info = policy.info
        check_may_import(info["env"], env)
        self._experiment = get_experiment(info["preset"])
        method = METHODS[info["method"]]
        if not method.adapts and steps:
            raise ValueError(f"steps is {steps}, but a policy of method {info['method']!r} is not adapted")
        if tasks is not None:
            tasks = checked("tasks", tasks, COUNT)
        self.inner_lr = float(
            checked("inner_lr", info["inner_lr"] if inner_lr is None else inner_lr, POSITIVE)
        )
        self.episodes = checked(
            "episodes", self._experiment.test_episodes if episodes is None else episodes, COUNT
        )
        self.make_env = partial(
            make_task_env, info["env"], self.episodes, info["horizon"], info["env_config"]
        )
        self.protocol = Protocol(
            spec=self._policy(policy.spec, module),
            meta_params=None if info["method"] == "random" else policy.params,
            steps=(3 if method.adapts else 0) if steps is None else steps,
            inner_lr=self.inner_lr,
            gamma=info["gamma"],
            gae_lambda=info["gae_lambda"],
            baseline_ridge=info["baseline_ridge"],
            seed=checked("seed", seed, SEED),
            weights_seed=int(info.get("seed", 0)),
            sample_timeout_s=sample_timeout_s,
            normalizer=policy.normalizer,
            deterministic=deterministic,
        )
        self._task_count = tasks
        spec, steps_count = policy.spec, self.protocol.steps + 1
        check_fits(
            [
                Need(
                    "one step of its episodes",
                    f"episodes {self.episodes}",
                    4 * self.episodes * spec.observation_size,
                ),
                Need(
                    "the returns",
                    f"tasks {tasks}, steps {self.protocol.steps}",
                    8 * (tasks or 40) * steps_count,
                ),
            ],
            total_memory(),
        )

    def _policy(self, spec: Policy, module: Any) -> Policy:
        """The policy of a file; one of a module is made from what a person named."""
        if not isinstance(spec, UnknownModule):
            return spec
        if module is None or module_name(module) != spec.name:
            return spec.resolved(None)
        config = MAMLConfig().training(module=module, adapt_only=spec.adapt_only)
        if isinstance(spec.head, GaussianHead):
            config.training(initial_std=spec.head.initial_std, min_std=spec.head.min_std)
        with closing(self.make_env()) as env:
            return spec.resolved(config.policy_spec(env.single_observation_space, env.single_action_space))

    @property
    def _standard_tasks(self) -> TestTasks | None:
        return self._experiment.test_tasks if self._task_count is None else None

    @cached_property
    def tasks(self) -> Tasks:
        """The held-out tasks."""
        if (standard := self._standard_tasks) is not None:
            return standard(self.info["env"], self.info["env_config"])
        rng = np.random.default_rng(stream(self.protocol.seed, Phase.EVALUATION_TASKS))
        limit_s = self.protocol.sample_timeout_s
        with time_limit(limit_s, f"the environment drew no tasks within sample_timeout_s={limit_s:g} s"):
            env: TaskVectorEnv = self.make_env()
            try:
                return env.sample_tasks(self._task_count or 40, rng)
            finally:
                env.close()

    @property
    def groups(self) -> tuple[str, ...]:
        """What each task belongs to; empty where all are of one kind."""
        group_of = self._experiment.group_of
        names = () if group_of is None else tuple(map(group_of, self.tasks))
        return names if len(set(names)) > 1 else ()

    @property
    def papers_row(self) -> tuple[Return, ...]:
        """The paper's returns of the same method on the same tasks, if there are any; of MAML if guided.

        Where the paper names no tasks, its returns are means over their distribution.
        """
        if self._experiment.test_tasks is not None and self._standard_tasks is None:
            return ()
        method = "maml" if self.info["method"] == GUIDED else self.info["method"]
        return self._experiment.paper.get(method, ())

    @property
    def source(self) -> str:
        """The paper."""
        return self._experiment.source

    def description(self) -> dict[str, Any]:
        """What was measured and how: goes into ``adaptation.json``."""
        kept = ("preset", "method", "env", "env_config", "horizon", "iteration")
        halves = [self.inner_lr / 2] * (self.protocol.steps - 1)
        return {
            **{name: self.info[name] for name in kept},
            "step_sizes": [self.inner_lr, *halves][: self.protocol.steps],
            "episodes": self.episodes,
            "standard_tasks": self._standard_tasks is not None,
            "seed": self.protocol.seed,
            "deterministic": self.protocol.deterministic,
        }
