"""K episodes of one task as one block of numpy work; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.mlp import GaussianMLP
from maml_rl.policies.numpy_mlp import NumpyPolicy


class Phase(IntEnum):
    """What a stream of random numbers is for; part of every seed."""

    TASKS = 0
    INIT = 1
    ROLLOUT = 2
    EVALUATION_TASKS = 3
    EVALUATION = 4
    VIDEO = 5
    MINIBATCHES = 6
    CRITIC = 7


def stream(seed: int, *key: int) -> np.random.SeedSequence:
    """The random stream named by ``(seed, *key)``: the same on every machine and in every process."""
    return np.random.SeedSequence(seed, spawn_key=key)


def rollout(
    env: TaskVectorEnv,
    task: Any,
    spec: GaussianMLP,
    params: Mapping[str, np.ndarray],
    seed: np.random.SeedSequence,
    on_state: Callable[[int], None] = lambda steps: None,
) -> Trajectories:
    """One episode in each of the environment's copies, with actions sampled from the policy.

    The result is a function of the arguments alone. Policy actions live in [-1, 1] per dimension: they are
    scaled to the action box and clipped there, while the trajectories keep them as sampled.

    Args:
        env: a task family with autoreset disabled; its number of copies is K, its horizon H.
        params: the policy's parameters, not stacked.
        on_state: called with the number of steps taken after the reset and after every step.
    """
    if env.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
        raise ValueError("rollout: the environment's autoreset_mode must be Disabled: see make_task_env")
    env_seed, noise_seed = map(int, seed.generate_state(2, np.uint64))
    env.set_task(task)
    observations, _ = env.reset(seed=env_seed)
    on_state(0)
    episodes, horizon = env.num_envs, env.max_episode_steps
    policy = NumpyPolicy(spec, params, episodes)
    low, high = env.single_action_space.low, env.single_action_space.high
    centre, scale = (high + low) / 2, (high - low) / 2

    all_actions = np.random.default_rng(noise_seed).standard_normal(
        (horizon, episodes, spec.action_size), np.float32
    )
    all_actions *= policy.std
    all_observations = np.zeros((horizon, episodes, spec.observation_size), np.float32)
    all_rewards = np.zeros((horizon, episodes), np.float32)
    lengths = np.full(episodes, horizon)
    alive = np.ones(episodes, bool)
    # Overflow and NaN are no warnings here: the learner finds them and names the task. (Of NaN fmax makes low.)
    with np.errstate(all="ignore"):
        for t in range(horizon):
            all_observations[t] = observations
            actions = all_actions[t]
            actions += policy.mean(all_observations[t])
            box_actions = actions * scale
            box_actions += centre
            observations, rewards, terminated, truncated, _ = env.step(
                np.fmin(np.fmax(box_actions, low, out=box_actions), high, out=box_actions)
            )
            all_rewards[t] = rewards
            on_state(t + 1)
            if terminated.any() or truncated.any():
                done = terminated | truncated
                lengths[alive & done] = t + 1
                alive = ~done
                if not alive.any():
                    break

    valid = np.arange(horizon)[:, None] < lengths
    return Trajectories(
        observations=_episodes_first(all_observations, valid),
        actions=_episodes_first(all_actions, valid),
        rewards=_episodes_first(all_rewards, valid),
        lengths=lengths,
    )


def _episodes_first(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """``[H, K, ...]`` to a contiguous ``[K, H, ...]`` with zeros on padding."""
    x[~valid] = 0
    return np.ascontiguousarray(x.swapaxes(0, 1))
