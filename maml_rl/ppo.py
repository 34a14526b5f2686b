"""Proximal policy optimisation (Schulman et al. 2017) of a policy that is not adapted, with a learned critic.

What makes it need many times fewer episodes than a trust-region step per batch: every batch is used for several
epochs, and the advantages come from a value function that remembers the batches before. It is there for the
policies without an inner step, above all for the oracle that shows guided policies what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maml_rl.advantages import generalized_advantages, standardize
from maml_rl.batch import Trajectories
from maml_rl.losses import clipped_surrogate
from maml_rl.meta_learner import stack_params
from maml_rl.policy import Gaussian, GaussianMLP, Params

MAX_GRADIENT_NORM = (
    0.5  # of the policy (Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic")
)
ADAM_EPSILON = 1e-5  # the same


@dataclass(frozen=True)
class PPOSettings:
    """What the update needs to know; ``MAMLConfig.training`` gives meanings and sources."""

    gamma: float
    gae_lambda: float
    lr: float = 1e-3
    num_epochs: int = 10
    minibatch_size: int = 1000
    clip_param: float = 0.2
    max_kl: float = 0.05


@dataclass(frozen=True)
class PPOResult:
    """What one update did. ``explained_variance`` is the critic's, of the returns it had not seen yet."""

    loss_before: float
    loss_after: float
    kl: float
    gradient_norm: float
    explained_variance: float


class ValueFunction(torch.nn.Module):
    """Value of an observation at a time step: two layers of 128 tanh units on standardised inputs.

    Mean and deviation of the inputs are those of the first batch, and are kept: inputs that changed their scale
    under a trained network would spoil it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_size: int, width: int = 128) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(observation_size + 1, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, 1),
        )
        self.register_buffer("mean", torch.full((observation_size + 1,), torch.nan))
        self.register_buffer("std", torch.ones(observation_size + 1))

    def inputs(
        self, observations: Float[Tensor, "episodes horizon observation"]
    ) -> Float[Tensor, "episodes horizon inputs"]:
        """The observations and the fraction of the horizon that has passed."""
        episodes, horizon, _ = observations.shape
        time = torch.arange(horizon, device=observations.device) / horizon
        return torch.cat([observations, time[:, None].expand(episodes, horizon, 1)], dim=-1)

    def fit_scale(self, inputs: Float[Tensor, "samples inputs"]) -> None:
        """Take mean and deviation of the inputs, once."""
        if self.mean.isnan().any():
            self.mean.copy_(inputs.mean(0))
            # Not below 0.05: what hardly moved in the first batch may move much in a later one.
            self.std.copy_(inputs.std(0, correction=0).clamp(min=0.05))

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch"]:
        return self.net(((inputs - self.mean) / self.std).clamp(-10, 10))[..., 0]


class PPO:
    """The critic, the optimiser's state, and the update of the policy's parameters."""

    def __init__(
        self, spec: GaussianMLP, settings: PPOSettings, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self._spec, self._settings = spec, settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._value = ValueFunction(spec.observation_size).to(device)
        self._params = {
            name: torch.zeros(shape, device=device, requires_grad=True) for name, shape in spec.shapes.items()
        }
        self._optimizer = torch.optim.Adam(
            [*self._params.values(), *self._value.parameters()], lr=settings.lr, eps=ADAM_EPSILON
        )

    def update(self, params: Params, trajectories: Trajectories, seed: int) -> tuple[Params, PPOResult]:
        """Epochs of minibatches on one batch of episodes; they end early once the KL exceeds ``max_kl``.

        Args:
            params: the policy that collected ``trajectories``.
            seed: of the order of the samples.

        Returns:
            The new parameters and what the update did.
        """
        settings, device = self._settings, self._value.mean.device
        with torch.no_grad():
            for name, value in params.items():
                self._params[name].copy_(value)
        observations, actions, rewards, lengths = (
            torch.from_numpy(getattr(trajectories, name)).to(device)
            for name in ("observations", "actions", "rewards", "lengths")
        )
        mask = torch.arange(rewards.shape[-1], device=device) < lengths[:, None]
        inputs = self._value.inputs(observations)
        self._value.fit_scale(inputs[mask])
        with torch.no_grad():
            values = self._value(inputs)
        advantages = generalized_advantages(rewards, values, mask, settings.gamma, settings.gae_lambda)
        targets = (advantages + values)[mask]
        explained = 1 - (targets - values[mask]).var() / targets.var()
        advantages = standardize(advantages[None], mask[None])[0][mask]
        observations, actions, inputs = observations[mask], actions[mask], inputs[mask]

        def policy(index: Tensor | slice) -> Gaussian:
            return self._spec(stack_params(self._params, 1), observations[None, index])

        everything = slice(None)
        with torch.no_grad():
            old = policy(everything)
            old_log_prob = old.log_prob(actions[None])[0]

        def loss(new: Gaussian, index: Tensor | slice) -> Tensor:
            log_ratio = new.log_prob(actions[None, index])[0] - old_log_prob[index]
            return clipped_surrogate(log_ratio, advantages[index], settings.clip_param)

        generator = torch.Generator().manual_seed(seed)
        norms = []
        for _ in range(settings.num_epochs):
            order = torch.randperm(len(actions), generator=generator).to(device)
            for index in order.tensor_split(max(1, len(order) // settings.minibatch_size)):
                value_loss = (self._value(inputs[index]) - targets[index]).square().mean()
                self._optimizer.zero_grad()
                (loss(policy(index), index) + value_loss).backward()
                norms.append(torch.nn.utils.clip_grad_norm_(self._params.values(), MAX_GRADIENT_NORM))
                self._optimizer.step()
            with torch.no_grad():
                new = policy(everything)
            kl = float(old.kl(new).mean())
            if not kl <= settings.max_kl:  # written so that a NaN ends it
                break
        result = PPOResult(
            loss_before=float(loss(old, everything)),
            loss_after=float(loss(new, everything)),
            kl=kl,
            gradient_norm=float(torch.stack(norms).mean()),
            explained_variance=float(explained),
        )
        return {name: value.detach().clone() for name, value in self._params.items()}, result

    def state_dict(self) -> dict[str, Any]:
        """A copy of the critic and of the optimiser's state, on the CPU, for a checkpoint."""

        def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.detach().cpu().clone() for name, value in tensors.items()}

        optimizer = self._optimizer.state_dict()
        optimizer["state"] = {index: copy(state) for index, state in optimizer["state"].items()}
        return {"value": copy(self._value.state_dict()), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._value.load_state_dict(state["value"])
        self._optimizer.load_state_dict(state["optimizer"])
