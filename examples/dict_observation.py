"""An environment of your own with a dictionary of observations.

A lamp is to be brought to a brightness that only the reward reveals. The observation is a dictionary: the
brightness, and which of three filters, drawn at random, dims the knob. Policies see both, the filter one-hot.
Expect, in less than a minute: the return after one gradient step rises from about -15 to above -8 in 25 iterations.

    python examples/dict_observation.py
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from maml_rl import MAMLConfig


class Lamp(gymnasium.Env[dict[str, Any], np.ndarray]):
    observation_space = Dict(brightness=Box(-np.inf, np.inf, (1,), np.float32), filter=Discrete(3))
    action_space = Box(-0.3, 0.3, (1,), np.float32)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """What a task is: the brightness that is wanted."""
        return rng.uniform(-1, 1, n)

    def set_task(self, task: float) -> None:
        self.wanted = float(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.brightness, self.filter = 0.0, int(self.np_random.integers(3))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.brightness += float(action[0]) * (1, 0.6, 0.3)[self.filter]
        away = abs(self.brightness - self.wanted)
        return self._observation(), -away, False, False, {"success": away < 0.1}

    def _observation(self) -> dict[str, Any]:
        return {"brightness": np.array([self.brightness], np.float32), "filter": self.filter}


def main(iterations: int) -> None:
    config = (
        MAMLConfig()
        .environment(Lamp)
        .training(inner_lr=0.1, horizon=25, episodes_per_task=10, gae_lambda=0.8)
    )
    algo = config.build_algo()
    for i in range(iterations):
        result = algo.train()
        success = f"{result['success_rate_pre']:.0%} -> {result['success_rate_post']:.0%}"
        print(f"{i + 1}: return {result['return_pre']:.2f} -> {result['return_post']:.2f}, success {success}")
    algo.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=25)
    main(parser.parse_args().iterations)
