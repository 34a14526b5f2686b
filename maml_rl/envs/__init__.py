"""Task families, registered as Gymnasium vector environments: ``gymnasium.make_vec("maml_rl/PointNav-v0")``."""

from __future__ import annotations

import gymnasium

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.point_nav import PointNav

__all__ = ["PointNav", "TaskVectorEnv"]

gymnasium.register(
    id="maml_rl/PointNav-v0", vector_entry_point="maml_rl.envs.point_nav:PointNav"
)
