"""Meta-World's meta-learning benchmarks ML1 and ML10 (Yu et al. 2019, arXiv 1910.10897).

The package ``metaworld`` is an optional extra, imported when one of these environments is first named. Families,
goals, observations, rewards and the horizon are the package's own; nothing is scaled or clipped here.

A task is the array ``[7]``: the index of its family in ``FAMILIES``, then the numbers that place object and
goal, padded with zeros. It says everything, so only the process that draws tasks has to set up the benchmark's
goals, which takes about eight seconds for ML10.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium
import numpy as np

from maml_rl.envs.gym_adapter import GymTaskEnv

try:
    import metaworld
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3
    from metaworld.sawyer_xyz_env import SawyerMocapBase
except ImportError as error:
    raise ValueError(
        f"environment needs the package metaworld, which cannot be imported ({error}); "
        "install it with: pip install 'maml-rl[metaworld]'"
    ) from error

FAMILIES = tuple(ALL_V3_ENVIRONMENTS)
"""All 50, from ``assembly-v3`` to ``window-close-v3``."""
HORIZON = 500
"""Steps after which Meta-World ends an episode (its ``max_path_length``)."""
GOAL_SIZE = 6
"""Most numbers that any of the 50 families draws per task."""
GOAL_SEED = 0
"""Of the benchmark's goals: the same training and held-out goals in every run."""


def _reset_mocap_welds(env: Any) -> None:
    """Meta-World's weld between the mocap body and the hand, on MuJoCo 4.

    Anchor and position 0, quaternion (-1, 0, 0, 0) and torque scale 5 as in metaworld 3.0, which writes rows of
    the 11 numbers that MuJoCo 3 had. The twelfth is 0 for a relative pose that was given (so the compiler does).
    """
    data = np.zeros(env.model.eq_data.shape[1])
    data[6], data[10] = -1.0, 5.0
    env.model.eq_data[env.model.eq_type == mujoco.mjtEq.mjEQ_WELD] = data


SawyerMocapBase.reset_mocap_welds = _reset_mocap_welds


@cache
def _benchmark_tasks(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out tasks ``[families x 50, 7]`` of ML10, or of ML1 with the family ``name``."""
    benchmark = metaworld.ML10(seed=GOAL_SEED) if name == "ML10" else metaworld.ML1(name, seed=GOAL_SEED)

    def as_rows(tasks: Sequence[metaworld.Task]) -> np.ndarray:
        rows = np.zeros((len(tasks), 1 + GOAL_SIZE))
        for row, task in zip(rows, tasks, strict=True):
            goal = pickle.loads(task.data)["rand_vec"]  # pickled by the benchmark a moment ago
            row[0] = FAMILIES.index(task.env_name)
            row[1 : 1 + len(goal)] = goal
        return rows

    return as_rows(benchmark.train_tasks), as_rows(benchmark.test_tasks)


def _families(name: str) -> list[str]:
    """The benchmark's families; of ML10 the 10 to train on, then the 5 held out."""
    return [*ML10_V3["train"], *ML10_V3["test"]] if name == "ML10" else [name]


def held_out_tasks(name: str, goals: int) -> np.ndarray:
    """The first ``goals`` held-out tasks of each family of ``"ML10"``, or of ML1 with the family ``name``."""
    _, tasks = _benchmark_tasks(name)
    return np.concatenate([tasks[tasks[:, 0] == family][:goals] for family in np.unique(tasks[:, 0])])


class MetaWorldEnv(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """One family of a benchmark at a time, with a goal that is not observed.

    Every episode of a task starts in the same state: the positions of goal and object belong to the task, and
    Meta-World adds no noise. ``info["success"]`` is 1.0 where the goal is reached.

    Args:
        benchmark: ``"ML10"``, or the family of ML1.
        render_mode: see ``gymnasium.Env``.
    """

    def __init__(self, benchmark: str, render_mode: str | None = None) -> None:
        self._benchmark = benchmark
        self._families = _families(benchmark)
        self._family = self._families[0]
        self._mode = render_mode
        super().__init__(ALL_V3_ENVIRONMENTS[self._family](render_mode=render_mode))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` training tasks ``[n, 7]``, evenly over the families and then over their goals."""
        tasks, _ = _benchmark_tasks(self._benchmark)
        families = np.unique(tasks[:, 0])
        chosen = families[_deal(n, len(families), rng)]
        result = np.empty((n, tasks.shape[1]))
        for family in families:
            goals = tasks[tasks[:, 0] == family]
            result[chosen == family] = goals[_deal((chosen == family).sum(), len(goals), rng)]
        return result

    def set_task(self, task: np.ndarray) -> None:
        """Take over family and goal; they hold from the next reset on.

        Meta-World rejects a goal too near to its object by drawing again. Here nothing is drawn: with such a
        goal, which no benchmark has, the next reset would not end.

        Raises:
            ValueError: the task is none of this benchmark.
        """
        task = np.asarray(task, np.float64)
        allowed = {FAMILIES.index(name): name for name in self._families}
        if task.shape != (1 + GOAL_SIZE,) or task[0] not in allowed:
            raise ValueError(
                f"task is {task}; it must be {1 + GOAL_SIZE} numbers, the first one of {allowed}"
            )
        self._switch(allowed[int(task[0])])
        simulation: Any = self.env.unwrapped
        space = simulation._random_reset_space
        goal, padding = np.split(task[1:], space.shape)
        if padding.any() or not space.contains(goal):
            raise ValueError(f"goal of {self._family} is {task[1:]}; it must be in {space}, zeros behind it")
        description = {"rand_vec": goal, "env_cls": type(simulation), "partially_observable": True}
        simulation.set_task(metaworld.Task(self._family, pickle.dumps(description)))

    def _switch(self, family: str) -> None:
        # One simulation at a time: each takes 20 MB, and a new one is there in the time of some 50 steps.
        if family != self._family:
            self.env.close()
            self.env = ALL_V3_ENVIRONMENTS[family](render_mode=self._mode)
            self._family = family


def _deal(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` indices below ``size``, none a second time before all have come once."""
    packs = [rng.permutation(size) for _ in range(-(-n // size))]
    return np.concatenate([np.empty(0, np.int64), *packs])[:n]


class MetaWorldML1(GymTaskEnv):
    """ML1: one family, 50 goals to train on and 50 others held out.

    Args:
        task: the family, such as ``reach-v3``, ``push-v3`` or ``pick-place-v3``.
        kwargs: see ``TaskVectorEnv``.

    Raises:
        ValueError: Meta-World has no such family.
    """

    def __init__(
        self, num_envs: int = 1, *, task: str = "reach-v3", max_episode_steps: int = HORIZON, **kwargs: Any
    ) -> None:
        if task not in FAMILIES:
            raise ValueError(f"task is {task!r}; it must be one of: {', '.join(sorted(FAMILIES))}")
        super().__init__(
            num_envs,
            env=MetaWorldEnv,
            env_kwargs={"benchmark": task},
            max_episode_steps=max_episode_steps,
            **kwargs,
        )


class MetaWorldML10(GymTaskEnv):
    """ML10: 10 families of 50 goals to train on, 5 other families of 50 goals held out.

    Args:
        kwargs: see ``TaskVectorEnv``.
    """

    def __init__(self, num_envs: int = 1, *, max_episode_steps: int = HORIZON, **kwargs: Any) -> None:
        super().__init__(
            num_envs,
            env=MetaWorldEnv,
            env_kwargs={"benchmark": "ML10"},
            max_episode_steps=max_episode_steps,
            **kwargs,
        )
