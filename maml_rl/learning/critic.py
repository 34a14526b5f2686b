"""A learned value function: advantages for a policy that is not adapted, from all the batches before.

The linear baseline is fitted to each batch alone, as adaptation to a new task has to be. A policy without inner
steps sees the same tasks in every batch, so that its value function can be learned over the whole run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maml_rl.learning.advantages import generalized_advantages, standardize
from maml_rl.learning.batch import Samples, arrange, shuffled, to_tensors
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.policy import Policy
from maml_rl.tools.optimizer_state import optimizer_arrays, restore_optimizer

LR = 1e-3
EPOCHS = 4
MINIBATCH = 1000
RECURRENT_MINIBATCH = 4000
"""Of whole episodes: fewer would be too few to average over."""


class ValueFunction(torch.nn.Module):
    """Value of an observation at a time step: two layers of 128 tanh units on standardised inputs.

    That of a policy with memory remembers, too: a GRU stands for the first layer. What an observation is worth then
    depends on what the policy has found out before, and a critic that does not know it takes knowledge for luck.

    Mean and deviation of the inputs are those of the first batch, and are kept: inputs that changed their scale
    under a trained network would spoil it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, observation_size: int, horizon: int, *, recurrent: bool = False, width: int = 128
    ) -> None:
        super().__init__()
        self._horizon = horizon
        self.memory = torch.nn.GRU(observation_size + 1, width, batch_first=True) if recurrent else None
        first = [] if recurrent else [torch.nn.Linear(observation_size + 1, width), torch.nn.Tanh()]
        self.net = torch.nn.Sequential(
            *first,
            torch.nn.Linear(width, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, 1),
        )
        self.register_buffer("mean", torch.full((observation_size + 1,), torch.nan))
        self.register_buffer("std", torch.ones(observation_size + 1))

    def inputs(
        self, observations: Float[Tensor, "*batch horizon observation"]
    ) -> Float[Tensor, "*batch horizon inputs"]:
        """The observations and the fraction of the horizon that has passed."""
        *batch, steps, _ = observations.shape
        time = torch.arange(steps, device=observations.device) / self._horizon
        return torch.cat([observations, time[:, None].expand(*batch, steps, 1)], dim=-1)

    def fit_scale(self, inputs: Float[Tensor, "samples inputs"]) -> None:
        """Take mean and deviation of the inputs, once."""
        if self.mean.isnan().any():
            self.mean.copy_(inputs.mean(0))
            # Not below 0.05: what hardly moved in the first batch may move much in a later one.
            self.std.copy_(inputs.std(0, correction=0).clamp(min=0.05))

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch"]:
        """Values; with a memory ``batch`` ends in the time steps of an episode, from its first on."""
        scaled = ((inputs - self.mean) / self.std).clamp(-10, 10)
        if self.memory is not None:
            scaled = self.memory(scaled.flatten(0, -3))[0].view(*scaled.shape[:-1], -1)
        return self.net(scaled)[..., 0]


class Critic:
    """The value function and its optimiser."""

    def __init__(
        self,
        policy: Policy,
        *,
        horizon: int,
        gamma: float,
        gae_lambda: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._policy, self._gamma, self._gae_lambda, self._device = policy, gamma, gae_lambda, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._value = ValueFunction(policy.observation_size, horizon, recurrent=policy.recurrent).to(
                device
            )
        self._optimizer = torch.optim.Adam(self._value.parameters(), lr=LR)

    def judge(
        self, trajectories: Trajectories, generator: torch.Generator, reward_scale: float = 1.0
    ) -> tuple[Samples, float]:
        """The episodes of one policy as samples with standardised advantages; then learn from them.

        Args:
            generator: of the order of the samples.
            reward_scale: what rewards are divided by.

        Returns:
            The samples, and the fraction of the returns' variance that was explained before learning from them.
        """
        observations, actions, rewards, mask = to_tensors([trajectories], self._device)
        rewards = rewards / reward_scale
        inputs = self._value.inputs(observations)
        self._value.fit_scale(inputs[mask])
        with torch.no_grad():
            values = self._value(inputs)
        advantages = generalized_advantages(rewards, values, mask, self._gamma, self._gae_lambda)
        targets = advantages + values
        explained = 1 - (targets - values)[mask].var() / targets[mask].var()
        if self._policy.recurrent:
            self._fit(inputs[0], targets[0], mask[0], RECURRENT_MINIBATCH, generator)
        else:
            self._fit(inputs[mask], targets[mask], mask[mask], MINIBATCH, generator)
        return arrange(observations, actions, standardize(advantages, mask), mask, self._policy), float(
            explained
        )

    def _fit(
        self,
        inputs: Float[Tensor, "*units inputs"],
        targets: Float[Tensor, "*units"],
        mask: Bool[Tensor, "*units"],
        minibatch: int,
        generator: torch.Generator,
    ) -> None:
        """Regress on samples, or on whole episodes: ``units`` are ``samples``, or ``episodes horizon``."""
        for _ in range(EPOCHS):
            parts = max(1, targets.numel() // minibatch)
            for index in shuffled(len(targets), parts, generator, targets.device):
                errors = (self._value(inputs[index]) - targets[index])[mask[index]]
                self._optimizer.zero_grad()
                errors.square().mean().backward()
                self._optimizer.step()

    def state(self) -> dict[str, np.ndarray]:
        """The network, its inputs' scale, and what the optimiser remembers, for a checkpoint."""
        network = self._value.state_dict()
        arrays = {f"value/{name}": value.detach().cpu().numpy().copy() for name, value in network.items()}
        return arrays | optimizer_arrays(self._optimizer, dict(self._value.named_parameters()))

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state`` returned."""
        network = {name: value for name, value in state.items() if name.startswith("value/")}
        self._value.load_state_dict(
            {name.removeprefix("value/"): torch.from_numpy(value.copy()) for name, value in network.items()}
        )
        rest = {name: value for name, value in state.items() if name not in network}
        restore_optimizer(self._optimizer, dict(self._value.named_parameters()), rest)
