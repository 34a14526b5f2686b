"""Environments as users write them, beside the package's own."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from maml_rl.envs.point_nav import PointNav


class Reach(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point on a line that is to reach a goal; an episode ends there, and ``info`` tells the distance."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, scale: float = 1.0) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self._scale, self._goal, self._x, self._t = scale, 0.0, 0.0, 0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.choice([-0.5, 0.5], n)

    def set_task(self, task: float) -> None:
        self._goal = float(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._x, self._t = float(self.np_random.uniform(-0.1, 0.1)), 0
        return self._observation(), {"distance": abs(self._x - self._goal)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._x += 0.3 * float(action[0])
        self._t += 1
        distance = abs(self._x - self._goal)
        return self._observation(), -distance, distance < 0.1, False, {"distance": distance}

    def _observation(self) -> np.ndarray:
        return np.array([self._scale * (self._x + 0.3)], np.float32)


class Telling(Reach):
    """Tells a success when the step count reaches the task's number, and more."""

    horizon = 5

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(1, 9, n).astype(float)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, _ = super().step(action)
        info: dict[str, Any] = {
            "success": np.array([self._t == self._goal]),
            "steps": self._t,
            "odd": bool(self._t % 2),
            "position": np.array([1.0, 2.0]),
            "name": "reach",
            "broken": float("nan"),
        }
        if self._t == 2:
            info["once"] = np.float32(7)
        return observation, reward, self._t == self.horizon, False, info


class Silent(Reach):
    """Tells nothing."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:4], {})


class Many(gymnasium.vector.SyncVectorEnv):
    """Environments of this module as a vector environment of a user's."""

    def __init__(
        self, num_envs: int, kind: str = "Telling", replies: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__([lambda: globals()[kind](**kwargs)] * num_envs)
        self.replies = replies or {}

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.envs[0].sample_tasks(n, rng)  # type: ignore[attr-defined]

    def set_task(self, task: float) -> None:
        for env in self.envs:
            env.set_task(task)  # type: ignore[attr-defined]

    def step(self, actions: Any) -> Any:
        result = list(super().step(actions))
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        return tuple(self.replies.get(name, value) for name, value in zip(names, result, strict=True))


class Forgetful(Reach):
    """Draws its start from a generator that no seed reaches."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._x = float(np.random.default_rng().uniform(-0.1, 0.1))
        return self._observation(), {}


def normalised() -> gymnasium.Env[Any, Any]:
    """With Gymnasium's wrapper, whose statistics survive a reset."""
    return gymnasium.wrappers.NormalizeObservation(Reach())


def rewards_normalised() -> gymnasium.Env[Any, Any]:
    """With statistics of the rewards."""
    return gymnasium.wrappers.NormalizeReward(Reach())


class SlowOnce(Reach):
    """Hangs in its tenth step, in the first process that makes one and finds no file at ``marker``."""

    def __init__(self, marker: str, driver: int) -> None:
        super().__init__()
        self._slow, self._steps = False, 0
        if os.getpid() != driver:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                self._slow = True
            except FileExistsError:
                pass

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self._slow and self._steps == 10:
            self._trouble()
        return super().step(action)

    def _trouble(self) -> None:
        time.sleep(3600)


class DiesOnce(SlowOnce):
    """Ends its process instead."""

    def _trouble(self) -> None:
        os._exit(1)


class Hangs(Reach):
    """Never returns from a method of a chosen name."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._hang("__init__")

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        self._hang("sample_tasks")
        return super().sample_tasks(n, rng)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._hang("reset")
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._hang("step")
        return super().step(action)

    def _hang(self, where: str) -> None:
        if where == self._where:
            time.sleep(3600)


def log_length(*, episode: Any, metrics_logger: Any, **kwargs: Any) -> None:
    """A callback."""
    metrics_logger.log_value("longest", len(episode), reduce="max", window=1000)


IMAGE = Box(0, 255, (4, 3, 3), np.uint8)
SPACES = {
    "vector": Box(-1, 1, (3,), np.float32),
    "double": Box(-np.inf, np.inf, (2,), np.float64),
    "matrix": Box(-1, 1, (2, 3), np.float32),
    "number": Box(-1, 1, (), np.float32),
    "integers": Box(-5, 5, (2,), np.int64),
    "image": IMAGE,
    "discrete": Discrete(4),
    "discrete from 2": Discrete(3, start=2),
    "several": MultiDiscrete([2, 3, 4]),
    "a table of several": MultiDiscrete([[2, 3], [4, 2]]),
    "bits": MultiBinary(3),
    "a table of bits": MultiBinary((2, 2)),
    "tuple": Tuple((Discrete(2), Box(-1, 1, (2, 2), np.float32))),
    "dict": Dict(position=Box(-1, 1, (2,), np.float32), code=Discrete(3), bits=MultiBinary(2)),
    "nested": Dict(b=Tuple((Discrete(2), Dict(c=Discrete(3)))), a=Box(0, 1, (1,), np.float32)),
}


class Found(gymnasium.Env[Any, Any]):
    """Where the goal is, the action has to be; observations tell nothing, in many words."""

    def __init__(self, space: str = "dict", low: float = -1.0, high: float = 1.0) -> None:
        self.observation_space = SPACES[space]
        self.action_space = Box(low, high, (1, 2), np.float32)
        self._goal = 0.0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, n)

    def set_task(self, task: float) -> None:
        self._goal = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> Any:
        assert action in self.action_space
        return self.observation_space.sample(), -float(np.abs(action - self._goal).sum()), False, False, {}


class Choice(gymnasium.Env[Any, Any]):
    """An action of any kind earns as much of the goal as it shares with it; observations are a dictionary."""

    observation_space = Dict(position=Box(-1, 1, (2,), np.float32), code=Discrete(3))
    _ACTIONS: ClassVar = {
        "discrete": Discrete(4, start=1),
        "multi-discrete": MultiDiscrete([[2, 3], [3, 2]], start=[[0, 1], [0, 0]]),
        "multi-binary": MultiBinary((2, 2)),
        "box": Box(-1, 1, (2,), np.float32),
    }

    def __init__(self, kind: str) -> None:
        self.action_space = self._ACTIONS[kind]
        self._goal = 0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 3, n)

    def set_task(self, task: int) -> None:
        self._goal = int(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space, action
        return self._observation(), float(np.mean(np.asarray(action) == self._goal)), False, False, {}

    def _observation(self) -> dict[str, Any]:
        position = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"position": position, "code": int(self.np_random.integers(3))}


class FarNav(PointNav):
    """Point navigation with observations far from zero, in units of ``1 / scale``, and rewards in others."""

    def __init__(self, num_envs: int = 1, *, scale: float, unit: float = 1.0, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self._scale, self._unit = scale, unit

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rewards, ended = super()._step(actions, active)
        return self._unit * rewards.astype(np.float64), ended

    def _observe(self) -> np.ndarray:
        return np.float32(self._scale) * (self._positions + 3)
