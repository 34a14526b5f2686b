"""K episodes of one task as one block of numpy work; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import ActionScale
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.acting import ActingPolicy
from maml_rl.policies.normalizer import Moments, Normalizer, ObservationScale

FIRST_STEPS = 200
"""Steps that a rollout has room for at first; longer episodes double it."""


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
    VALIDATION = 8
    NORMALIZER = 9


def stream(seed: int, *key: int) -> np.random.SeedSequence:
    """The random stream named by ``(seed, *key)``: the same on every machine and in every process."""
    return np.random.SeedSequence(seed, spawn_key=key)


class Step(NamedTuple):
    """One step of all episodes.

    Attributes:
        actions: ``[K, act]`` in policy units, as sampled.
        env_actions: ``[K, act]``, what the environment got.
        rewards: ``[K]``.
        active: the episodes that made this step; the others were over before it.
    """

    actions: np.ndarray
    env_actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    active: np.ndarray


class State(NamedTuple):
    """What an observer of a rollout is shown.

    Attributes:
        steps: taken so far.
        observations: ``[K, obs]``.
        step: that led here; None after the reset.
    """

    steps: int
    observations: np.ndarray
    step: Step | None = None


def rollout(
    env: TaskVectorEnv,
    task: Any,
    policy: ActingPolicy,
    params: Mapping[str, np.ndarray],
    seed: np.random.SeedSequence,
    *observers: Callable[[State], None],
    normalizer: Normalizer | None = None,
    deterministic: bool = False,
) -> Trajectories:
    """One episode in each of the environment's copies, with actions sampled from the policy.

    The result is a function of the arguments alone. Actions of bounded boxes live in [-1, 1] per dimension: they
    are scaled to the box and clipped there, while the trajectories keep them as sampled. Memory follows the longest
    episode, and not the horizon.

    Args:
        env: a task family with autoreset disabled; its number of copies is K, its horizon H.
        params: the policy's parameters, not stacked.
        observers: called after the reset and after every step; what they are shown is overwritten later.
        normalizer: of the observations that the policy sees and trajectories keep.
        deterministic: take means, and the likeliest categories.
    """
    if env.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
        raise ValueError("rollout: the environment's autoreset_mode must be Disabled: see make_task_env")
    env_seed, noise_seed = map(int, seed.generate_state(2, np.uint64))
    env.set_task(task)
    observations, _ = env.reset(seed=env_seed)
    for observe in observers:
        observe(State(0, observations))
    episodes, horizon = env.num_envs, env.max_episode_steps
    normalized, to_env = ObservationScale(normalizer), ActionScale(env.single_action_space)
    noise = np.random.default_rng(noise_seed)

    all_actions = np.zeros((0, episodes, policy.action_size), np.float32)
    all_observations = np.zeros((0, episodes, policy.observation_size), np.float32)
    all_rewards = np.zeros((0, episodes), np.float32)
    lengths = np.full(episodes, horizon)
    alive = np.ones(episodes, bool)
    # Overflow and NaN are no warnings here: the learner finds them and names the task. (Of NaN fmax makes low.)
    with np.errstate(all="ignore"):
        actor = policy.actor(params, episodes)
        for t in range(horizon):
            if t == len(all_rewards):
                more = min(max(t, FIRST_STEPS), horizon - t)
                # As long as has been needed so far: the noise is the same, drawn at once or in parts.
                drawn, start = policy.head.noise(noise, more, episodes, params), t
                if deterministic:
                    drawn = np.zeros_like(drawn)
                all_actions = _longer(all_actions, more)
                all_observations = _longer(all_observations, more)
                all_rewards = _longer(all_rewards, more)
            all_observations[t] = normalized(observations)
            all_actions[t] = actions = policy.head.act(actor(all_observations[t]), drawn[t - start])
            env_actions = to_env(actions)
            observations, rewards, terminated, truncated, _ = env.step(env_actions)
            all_rewards[t] = rewards
            for observe in observers:
                step = Step(actions, env_actions, rewards, terminated, truncated, alive)
                observe(State(t + 1, observations, step))
            if terminated.any() or truncated.any():
                done = terminated | truncated
                lengths[alive & done] = t + 1
                alive = ~done
                if not alive.any():
                    break

    steps = int(lengths.max())
    valid = np.arange(steps)[:, None] < lengths
    return Trajectories(
        observations=_episodes_first(all_observations[:steps], valid),
        actions=_episodes_first(all_actions[:steps], valid),
        rewards=_episodes_first(all_rewards[:steps], valid),
        lengths=lengths,
    )


class SeenObservations:
    """Gathers the observations that actions were taken at, as they come from the environment; an observer."""

    def __init__(self) -> None:
        self._seen: list[np.ndarray] = []

    def __call__(self, state: State) -> None:
        observations = state.observations
        if state.step is not None:
            observations = observations[state.step.active & ~(state.step.terminated | state.step.truncated)]
        self._seen.append(observations.copy())

    def moments(self) -> Moments:
        return Moments.of(np.concatenate(self._seen))


def _longer(x: np.ndarray, more: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)])


def _episodes_first(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """``[H, K, ...]`` to a contiguous ``[K, H, ...]`` with zeros on padding."""
    x[~valid] = 0
    return np.ascontiguousarray(x.swapaxes(0, 1))
