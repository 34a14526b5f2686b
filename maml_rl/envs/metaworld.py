"""Meta-World's meta-learning benchmarks ML1 and ML10 (Yu et al. 2019, arXiv 1910.10897).

The package ``metaworld`` is an optional extra, imported when one of these environments is first named. Families,
goals, observations, rewards and the horizon are the package's own; nothing is scaled or clipped here.

A task is the array ``[7]``: the index of its family in ``FAMILIES``, then the numbers that place object and
goal, padded with zeros. It says everything, so only the process that draws tasks has to set up the benchmark's
goals, which takes about eight seconds for ML10.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from maml_rl.envs.gym_adapter import GymTaskEnv
from maml_rl.tools.checks import did_you_mean

try:
    import metaworld
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3
    from metaworld.sawyer_xyz_env import SawyerMocapBase

    from maml_rl.envs.metaworld_speed import another, copy_state, faster
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


class Benchmark(NamedTuple):
    """Families to train on, and families held out; of those that are both other goals are held out."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def families(self) -> list[str]:
        """All of them, those to train on first."""
        return [*dict.fromkeys((*self.train, *self.test))]


ML10 = Benchmark(tuple(ML10_V3["train"]), tuple(ML10_V3["test"]))
ML45 = Benchmark(tuple(ML45_V3["train"]), tuple(ML45_V3["test"]))


def ml1(family: str) -> Benchmark:
    """One family, with goals to train on and others held out."""
    return Benchmark((family,), (family,))


@cache
def _tasks(benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out tasks ``[families x 50, 7]``: of ML1, ML10 and ML45 the package's own."""
    for known, make in ((ML10, metaworld.ML10), (ML45, metaworld.ML45)):
        if benchmark == known:
            return _as_rows(make(seed=GOAL_SEED))
    goals = {family: _as_rows(metaworld.ML1(family, seed=GOAL_SEED)) for family in benchmark.families}
    return (
        np.concatenate([goals[family][0] for family in benchmark.train]),
        np.concatenate([goals[family][1] for family in benchmark.test]),
    )


def _as_rows(benchmark: metaworld.Benchmark) -> tuple[np.ndarray, np.ndarray]:
    def rows(tasks: Sequence[metaworld.Task]) -> np.ndarray:
        found = np.zeros((len(tasks), 1 + GOAL_SIZE))
        for row, task in zip(found, tasks, strict=True):
            goal = pickle.loads(task.data)["rand_vec"]  # pickled by the benchmark a moment ago
            row[0] = FAMILIES.index(task.env_name)
            row[1 : 1 + len(goal)] = goal
        return found

    return rows(benchmark.train_tasks), rows(benchmark.test_tasks)


def held_out_tasks(benchmark: Benchmark, goals: int) -> np.ndarray:
    """The first ``goals`` held-out tasks of each of the families held out."""
    _, tasks = _tasks(benchmark)
    return np.concatenate([tasks[tasks[:, 0] == family][:goals] for family in np.unique(tasks[:, 0])])


def benchmark_of(env: str, env_config: Mapping[str, Any]) -> Benchmark:
    """The benchmark of one of the registered environments."""
    fixed = {"maml_rl/MetaWorldML10-v0": ML10, "maml_rl/MetaWorldML45-v0": ML45}
    if env in fixed:
        return fixed[env]
    if "train" in env_config:
        return chosen(env_config["train"], env_config.get("test", ()))
    return ml1(env_config["task"])


def family_of(task: np.ndarray) -> str:
    """The family of a task."""
    return FAMILIES[int(task[0])]


@cache
def _class_of(family: str) -> type[Any]:
    return faster(ALL_V3_ENVIRONMENTS[family])


def _simulation(family: str, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    simulation: gymnasium.Env[Any, Any] = _class_of(family)(render_mode=render_mode)
    return simulation


class MetaWorldEnv(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """One family of a benchmark at a time, with a goal that is not observed.

    Every episode of a task starts in the same state: the positions of goal and object belong to the task, and
    Meta-World adds no noise. ``info["success"]`` is 1.0 where the goal is reached.

    Args:
        benchmark: whose tasks are drawn and taken.
        render_mode: see ``gymnasium.Env``.
    """

    def __init__(self, benchmark: Benchmark, render_mode: str | None = None) -> None:
        self._benchmark = benchmark
        self._family = benchmark.families[0]
        self._mode = render_mode
        super().__init__(_simulation(self._family, render_mode))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` training tasks ``[n, 7]``, evenly over the families and then over their goals."""
        tasks, _ = _tasks(self._benchmark)
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
        allowed = {FAMILIES.index(name): name for name in self._benchmark.families}
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
        family = ALL_V3_ENVIRONMENTS[self._family]
        description = {"rand_vec": goal, "env_cls": family, "partially_observable": True}
        simulation.set_task(metaworld.Task(self._family, pickle.dumps(description)))

    def follow(self, first: MetaWorldEnv) -> None:
        """Take over the task of another copy; without pictures, also the model of its simulation."""
        if self._mode is not None:
            self._switch(first._family)
            copy_state(first.env.unwrapped, self.env.unwrapped)
        elif vars(self.env.unwrapped)["model"] is not vars(first.env.unwrapped)["model"]:
            self.env.close()
            self.env, self._family = another(first.env.unwrapped), first._family

    def _switch(self, family: str) -> None:
        # One simulation at a time: each takes 20 MB, and a new one is there in the time of some 100 steps.
        if family != self._family:
            self.env.close()
            self.env = _simulation(family, self._mode)
            self._family = family


def _deal(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` indices below ``size``, none a second time before all have come once."""
    packs = [rng.permutation(size) for _ in range(-(-n // size))]
    return np.concatenate([np.empty(0, np.int64), *packs])[:n]


class _MetaWorld(GymTaskEnv):
    """Copies that are reset together, which takes one reset: nothing in it is random."""

    def __init__(self, num_envs: int, benchmark: Benchmark, max_episode_steps: int, **kwargs: Any) -> None:
        super().__init__(
            num_envs,
            env=MetaWorldEnv,
            env_kwargs={"benchmark": benchmark},
            max_episode_steps=max_episode_steps,
            **kwargs,
        )

    def describe_task(self) -> str:
        """The family, and the numbers that place goal and objects."""
        numbers = np.trim_zeros(np.asarray(self._task, np.float64)[1:], "b")
        return f"{family_of(self._task)} ({', '.join(f'{x:.2f}' for x in numbers)})"

    def _set_task(self, task: Any) -> None:
        first, *others = self._envs
        self._call(first, "set_task", task)
        for other in others:
            self._call(other, "follow", first)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        allowed = np.clip(actions, -1, 1).astype(np.float32)
        simulations: list[Any] = [env.unwrapped for env in self._envs]
        rewards = np.zeros(self.num_envs)
        running = np.flatnonzero(active).tolist()
        # First the physics of all, then what Python computes: each finds its code in the processor's cache.
        for k in running:
            simulations[k].advance(allowed[k])
        for k in running:
            self._observations[k], rewards[k], self._infos[k] = simulations[k].look(allowed[k])
        if not (np.isfinite(self._observations).all() and np.isfinite(rewards).all()):
            raise self._error("step", "the simulation diverged: observations or rewards are not finite")
        return rewards, np.zeros(self.num_envs, bool)

    def _reset(self, mask: np.ndarray) -> None:
        first, *others = np.flatnonzero(mask)
        super()._reset(np.arange(len(mask)) == first)
        for k in others:
            copy_state(self._envs[int(first)].unwrapped, self._envs[int(k)].unwrapped)
            self._observations[k], self._infos[k] = self._observations[first], dict(self._infos[first])


class MetaWorldML1(_MetaWorld):
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
        _check_family("task is", task)
        super().__init__(num_envs, ml1(task), max_episode_steps, **kwargs)


class MetaWorldML10(_MetaWorld):
    """ML10: 10 families of 50 goals to train on, 5 other families of 50 goals held out.

    Args:
        kwargs: see ``TaskVectorEnv``.
    """

    def __init__(self, num_envs: int = 1, *, max_episode_steps: int = HORIZON, **kwargs: Any) -> None:
        super().__init__(num_envs, ML10, max_episode_steps, **kwargs)


class MetaWorldML45(_MetaWorld):
    """ML45: 45 families of 50 goals to train on, 5 other families of 50 goals held out.

    Args:
        kwargs: see ``TaskVectorEnv``.
    """

    def __init__(self, num_envs: int = 1, *, max_episode_steps: int = HORIZON, **kwargs: Any) -> None:
        super().__init__(num_envs, ML45, max_episode_steps, **kwargs)


class MetaWorldFamilies(_MetaWorld):
    """Families of one's own choice, 50 goals each.

    Args:
        train: the families to train on.
        test: those held out; by default other goals of the same ones.
        kwargs: see ``TaskVectorEnv``.

    Raises:
        ValueError: Meta-World has no such family.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        train: Sequence[str],
        test: Sequence[str] = (),
        max_episode_steps: int = HORIZON,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_envs, chosen(train, test), max_episode_steps, **kwargs)


def chosen(train: Sequence[str], test: Sequence[str] = ()) -> Benchmark:
    """The benchmark of ``MetaWorldFamilies``."""
    _check_families("train", train)
    _check_families("test", test)
    if not train:
        raise ValueError(f"train is {train!r}; it must name at least one family")
    return Benchmark(tuple(train), tuple(test or train))


def _check_families(name: str, families: Sequence[str]) -> None:
    if isinstance(families, str) or not isinstance(families, Sequence):
        raise ValueError(
            f'{name} is {families!r}; it must be a list of families, such as ["reach-v3", "push-v3"]'
        )
    for family in families:
        _check_family(f"{name} holds", family)


def _check_family(told: str, family: Any) -> None:
    if family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES)
        raise ValueError(f"{told} {family!r}{hint}; it must be one of: {', '.join(sorted(FAMILIES))}")
