"""A recurrent policy: GRU or LSTM, whose state lasts an episode, adapted by the same gradient step.

Point navigation in which the observation is the last move only: where it is, the policy has to remember. Expect, in
about a minute: the return after one gradient step rises from about -20 to above -15 in 15 iterations.

    python examples/recurrent_policy.py
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from maml_rl import MAMLConfig


class Blindfolded(gymnasium.Env[np.ndarray, np.ndarray]):
    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-0.1, 0.1, (2,), np.float32)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """What a task is: the goal."""
        return rng.uniform(-0.5, 0.5, (n, 2))

    def set_task(self, task: np.ndarray) -> None:
        self.goal = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = np.zeros(2)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = self.position + action
        away = float(np.linalg.norm(self.position - self.goal))
        return (10 * action).astype(np.float32), -away, False, False, {}


def main(iterations: int) -> None:
    config = (
        MAMLConfig()
        .environment(Blindfolded)
        .training(
            recurrent="gru",
            recurrent_size=32,
            hidden_sizes=(32,),
            activation="tanh",
            inner_lr=0.1,
            horizon=40,
            episodes_per_task=10,
            gae_lambda=0.8,
        )
    )
    algo = config.build_algo()
    for i in range(iterations):
        result = algo.train()
        print(f"{i + 1}: return {result['return_pre']:.2f} -> {result['return_post']:.2f}")
    algo.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=15)
    main(parser.parse_args().iterations)
