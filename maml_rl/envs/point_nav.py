"""2-D point navigation (Finn et al. 2017, sec. 5.3): reach a goal that only the reward reveals."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import numpy as np

from maml_rl.envs.base import TaskVectorEnv

Reward = Literal["distance", "squared_distance"]


class PointNav(TaskVectorEnv):
    """A point moves from the origin to a goal drawn uniformly from [-0.5, 0.5]^2.

    Observation: position (x, y). Action: displacement per step in [-0.1, 0.1]^2. The reward is given
    after the move, and the episode terminates when both coordinates are within 0.01 of the goal.

    Args:
        reward: ``distance`` is minus the distance to the goal, as in the published code that produced the
            paper's numbers; ``squared_distance`` is minus its square, as in the paper's text.
        max_episode_steps: horizon H.
        kwargs: see ``TaskVectorEnv``.
    """

    max_step = 0.1
    goal_radius = 0.01
    goal_range = 0.5
    view_range = 1.0
    """Pictures show [-view_range, view_range]^2."""
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}  # type: ignore[misc]
    render_size = (480, 480)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        reward: Reward = "distance",
        max_episode_steps: int = 100,
        **kwargs: Any,
    ) -> None:
        if reward not in get_args(Reward):
            raise ValueError(f"reward is {reward!r}; allowed: {', '.join(get_args(Reward))}")
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            action_space=gymnasium.spaces.Box(-self.max_step, self.max_step, (2,), np.float32),
            task_space=gymnasium.spaces.Box(-self.goal_range, self.goal_range, (2,), np.float64),
            **kwargs,
        )
        self._squared = reward == "squared_distance"
        self._positions = np.zeros((num_envs, 2), np.float32)
        self._goal = np.zeros(2, np.float32)
        # The last positions of all copies, kept for pictures only.
        self._trail = deque([self._positions.copy()], maxlen=max_episode_steps + 1)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Goals ``[n, 2]``."""
        return rng.uniform(-self.goal_range, self.goal_range, (n, 2))

    def _set_task(self, task: np.ndarray) -> None:
        self._goal = task.astype(np.float32)

    def describe_task(self) -> str:
        """The goal."""
        x, y = self._goal
        return f"goal ({x:.2f}, {y:.2f})"

    def _reset(self, mask: np.ndarray) -> None:
        self._positions[mask] = 0
        for positions in self._trail:  # a line that has not left the start yet
            positions[mask] = 0

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._positions += actions if active.all() else np.where(active[:, None], actions, 0)
        if self.render_mode is not None:
            self._trail.append(self._positions.copy())
        offsets = self._positions - self._goal
        squares = np.einsum("ij,ij->i", offsets, offsets)
        rewards = np.negative(squares if self._squared else np.sqrt(squares))
        return rewards, np.abs(offsets).max(axis=1) < self.goal_radius

    def _observe(self) -> np.ndarray:
        return self._positions.copy()

    def _render(self, copy: int) -> np.ndarray:
        """The square of the goals, the goal (green), the trail and the point (blue)."""
        from PIL import Image, ImageDraw  # runners draw nothing

        scale = 2  # drawn larger and shrunk: smooth edges
        size = np.array(self.render_size) * scale
        unit = size.min() / (2 * self.view_range)

        def pixel(position: np.ndarray) -> tuple[float, float]:
            x, y = size / 2 + unit * position * (1, -1)
            return float(x), float(y)

        image = Image.new("RGB", tuple(size.tolist()), "white")
        draw = ImageDraw.Draw(image)
        corner = np.array([self.goal_range, self.goal_range])
        (left, bottom), (right, top) = pixel(-corner), pixel(corner)
        draw.rectangle((left, top, right, bottom), fill="#f2f2f2", outline="#b0b0b0", width=scale)
        trail = [pixel(positions[copy]) for positions in self._trail]
        draw.line(trail, fill="#7fb2e5", width=2 * scale)
        draw.circle(pixel(self._goal), unit * 0.03, fill="#2ca02c")
        draw.circle(trail[-1], unit * 0.025, fill="#1f5fa8")
        return np.asarray(image.resize(self.render_size, Image.Resampling.BOX))
