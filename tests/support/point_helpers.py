"""A point on its way."""

from __future__ import annotations

from typing import Any

import numpy as np

from maml_rl.envs import PointNav


def started(num_envs: int = 2, goal: tuple[float, float] = (0.3, -0.4), **kwargs: Any) -> PointNav:
    """Copies at the origin, with a known goal."""
    env = PointNav(num_envs, **({"autoreset_mode": "Disabled"} | kwargs))
    env.set_task(np.array(goal))
    env.reset(seed=0)
    return env


def moves(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)
