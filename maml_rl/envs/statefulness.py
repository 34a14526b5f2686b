"""Whether an environment remembers anything from one episode to the next."""

from __future__ import annotations

import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.spaces import ActionScale, head_of
from maml_rl.policies.heads import LOG_STD

_STEPS = 20


def find_memory(env: TaskVectorEnv) -> str | None:
    """What differs between two episodes of the same task, seed and actions: observations, rewards, or nothing.

    State that survives a reset, as that of normalising wrappers, makes results depend on which machine collected
    what before.
    """
    first, second = _episode(env), _episode(env)
    for name, a, b in zip(("observations", "rewards"), first, second, strict=True):
        if not np.array_equal(a, b):
            return name
    return None


def _episode(env: TaskVectorEnv) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    env.set_task(env.sample_tasks(1, rng)[0])
    observations, rewards = [env.reset(seed=0)[0]], []
    scale, head = ActionScale(env.single_action_space), head_of(env.single_action_space)
    outputs = np.zeros((env.num_envs, head.outputs), np.float32)
    noise = head.noise(rng, _STEPS, env.num_envs, {LOG_STD: np.zeros(head.action_size, np.float32)})
    for t in range(min(_STEPS, env.max_episode_steps)):
        actions = scale(head.act(outputs, noise[t]))
        observation, reward, terminated, truncated, _ = env.step(actions)
        observations.append(observation)
        rewards.append(reward)
        if (terminated | truncated).all():
            break
    return np.array(observations), np.array(rewards)
