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

import numpy as np
import torch
from jaxtyping import Float

from maml_rl.learning.batch import Samples
from maml_rl.learning.losses import OuterLoss, imitation_and_kl
from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.normalizer import Normalizer, ObservationScale
from maml_rl.policies.policy import Params, Policy


@dataclass(frozen=True)
class Expert:
    """A policy whose observation ends with the features of the task: what ``--method oracle`` trains.

    Attributes:
        std_scale: factor on its standard deviation.
        clip: whether it shows its mean actions as the environment clips them. A mean far outside the box acts as
            the box's edge, and to imitate how far outside it is can take most of a pupil's capacity.
        normalizer: of its own observations.
    """

    spec: Policy
    params: Params
    std_scale: float = 1.0
    clip: bool = False
    normalizer: Normalizer | None = None

    @property
    def outer_loss(self) -> OuterLoss:
        """The imitation loss on samples that ``show`` has answered."""
        shared = [self.params[name] for name in self.spec.head.shapes]
        return imitation_and_kl([x + math.log(self.std_scale) for x in shared])

    def show(
        self,
        samples: Samples,
        task_features: Float[np.ndarray, "tasks features"],
        pupils: Normalizer | None = None,
    ) -> Samples:
        """The samples with the outputs of the expert's network, such as mean actions, in place of actions."""
        tasks, *shape = samples.weights.shape
        features = torch.from_numpy(task_features).to(samples.observations)
        features = features[:, None].expand(-1, math.prod(shape), -1).unflatten(1, shape)
        with torch.no_grad():
            seen = ObservationScale(pupils).inverse(samples.observations)
            observations = ObservationScale(self.normalizer)(torch.cat([seen, features], dim=-1))
            if not self.spec.recurrent:
                observations = observations.flatten(1, -2)
            outputs = self.spec(stack_params(self.params, tasks), observations).parts[0]
            outputs = outputs.reshape(tasks, *shape, -1)
        return samples._replace(actions=outputs.clamp(-1, 1) if self.clip else outputs)

    def to(self, device: torch.device) -> Expert:
        """The expert with its parameters on ``device``."""
        return replace(self, params={name: value.to(device) for name, value in self.params.items()})
