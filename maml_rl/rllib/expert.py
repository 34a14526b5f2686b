"""The expert of guided meta-learning, from a run directory or a file."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from maml_rl.envs import TaskVectorEnv
from maml_rl.envs.spaces import ActionScale, same_actions
from maml_rl.learning.guidance import Expert
from maml_rl.policies.module_policy import UnknownModule
from maml_rl.policies.policy_file import PolicyFileError, load_policy, policy_file_in
from maml_rl.tools.storage import Place


def load_expert(
    path: Place, env: TaskVectorEnv, *, std_scale: float = 1.0, clip: bool = False, recurrent: bool = False
) -> Expert:
    """The expert in a run directory or ``*.safetensors`` file.

    Args:
        recurrent: whether its pupil is: only then are there whole episodes for a recurrent expert.

    Raises:
        PolicyFileError: it cannot be read, is not of a policy that is told the tasks of ``env``, or
            cannot be clipped.
    """
    file = policy_file_in(path)
    policy = load_policy(file)
    features = env.task_features(env.sample_tasks(1, np.random.default_rng(0))[0])
    actions = env.single_action_space
    expected = (
        env.single_observation_space.shape[0] + len(features),
        same_actions(policy.spec.head, actions),
    )
    if (policy.spec.observation_size, True) != expected:
        raise PolicyFileError(
            f"expert: {file} has {policy.spec.observation_size} inputs and {policy.spec.head}; an expert for "
            f"this environment has {expected[0]} inputs (the observation and the task) and actions of {actions}: "
            "train it with --method oracle"
        )
    if isinstance(policy.spec, UnknownModule):
        raise PolicyFileError(
            f"expert: {file} is of module {policy.spec.name}; an expert has a built-in network"
        )
    if policy.spec.recurrent and not recurrent:
        raise PolicyFileError(f"expert: {file} is recurrent; only a recurrent policy can imitate it")
    if clip and not (isinstance(actions, Box) and ActionScale(actions).bounded.all()):
        raise PolicyFileError(
            f"expert_clip is True, but actions of the environment are not bounded numbers: {actions}"
        )
    return Expert(policy.spec, policy.params, std_scale, clip, policy.normalizer)
