"""Guided meta-learning: an expert that is told the task shows the adapted policies what to do.

After Mendonca et al. 2019, "Guided Meta-Policy Search" (arXiv 1904.00956): adaptation stays the policy-gradient
step on a task's own rewards, but the outer loss is imitation instead of a return. Its gradient is nearly free of
noise, because the expert answers for every state exactly, where a return has to be estimated from few episodes.

Here the states are those the adapted policies visit themselves (the samples line 8 of Algorithm 3 draws anyway),
so that nothing is learned about states only an expert gets into (Ross et al. 2011, DAgger), and the loss is the KL
divergence of the two distributions in closed form, in place of sampled expert actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from maml_rl.batch import Samples
from maml_rl.envs import TaskVectorEnv
from maml_rl.losses import OuterLoss, imitation_and_kl
from maml_rl.meta_learner import stack_params
from maml_rl.policy import LOG_STD, GaussianMLP, Params
from maml_rl.policy_file import PolicyFileError, load_policy
from maml_rl.run_directory import policy_file_in


@dataclass(frozen=True)
class Expert:
    """A policy whose observation ends with the features of the task: what ``--method oracle`` trains.

    Attributes:
        std_scale: factor on its standard deviation.
        clip: whether it shows its mean actions as the environment clips them. A mean far outside the box acts as
            the box's edge, and to imitate how far outside it is can take most of a pupil's capacity.
    """

    spec: GaussianMLP
    params: Params
    std_scale: float = 1.0
    clip: bool = False

    @property
    def outer_loss(self) -> OuterLoss:
        """The imitation loss on samples that ``show`` has answered."""
        return imitation_and_kl(self.params[LOG_STD] + math.log(self.std_scale))

    def show(self, samples: Samples, task_features: Float[np.ndarray, "tasks features"]) -> Samples:
        """The samples with the expert's mean actions in place of those that were taken."""
        tasks, count = samples.weights.shape
        features = torch.from_numpy(task_features).to(samples.observations)[:, None].expand(-1, count, -1)
        with torch.no_grad():
            observations = torch.cat([samples.observations, features], dim=-1)
            mean = self.spec(stack_params(self.params, tasks), observations).mean
        return samples._replace(actions=mean.clamp(-1, 1) if self.clip else mean)

    def to(self, device: torch.device) -> Expert:
        """The expert with its parameters on ``device``."""
        return replace(self, params={name: value.to(device) for name, value in self.params.items()})


def load_expert(path: Path, env: TaskVectorEnv, *, std_scale: float = 1.0, clip: bool = False) -> Expert:
    """The expert in a run directory or ``*.safetensors`` file.

    Raises:
        PolicyFileError: it cannot be read, or is not of a policy that is told the tasks of ``env``.
    """
    file = policy_file_in(path)
    policy = load_policy(file)
    features = env.task_features(env.sample_tasks(1, np.random.default_rng(0))[0])
    expected = (env.single_observation_space.shape[0] + len(features), env.single_action_space.shape[0])
    found = (policy.spec.observation_size, policy.spec.action_size)
    if found != expected:
        raise PolicyFileError(
            f"expert: {file} has {found[0]} inputs and {found[1]} actions; an expert for this environment "
            f"has {expected[0]} (the observation and the task) and {expected[1]}: train it with --method oracle"
        )
    return Expert(policy.spec, policy.params, std_scale, clip)
