"""The policy as an RLlib ``RLModule``: holds the meta-parameters for checkpoints, Tune and inference."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian, TorchMultiCategorical
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from maml_rl.policies.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gaussian,
    StateGaussian,
    distribution,
)
from maml_rl.policies.heads import GaussianHead, StateGaussianHead
from maml_rl.policies.meta_params import INNER_LR, theta_of
from maml_rl.policies.normalizer import Normalizer, ObservationScale
from maml_rl.policies.policy import Params
from maml_rl.policies.torch_policy import TorchPolicy
from maml_rl.rllib.policy_builder import build_policy


class PolicyModule(TorchRLModule):
    """Meta-parameters as ``torch.nn.Parameter`` under the names of ``Policy.shapes``.

    The learner reads and writes them as values (``meta_params`` / ``set_meta_params``); the forward methods
    serve RLlib's tools, which expect action-distribution inputs. Actions in bounded boxes are in policy units:
    [-1, 1] per dimension stands for the whole box. Bits are categories 0 and 1, which RLlib has a distribution for.
    """

    def setup(self) -> None:
        config = dict(self.model_config)
        learned_inner_lr = config.pop("learned_inner_lr")
        self.spec = build_policy(self.observation_space, self.action_space, config)  # type: ignore[arg-type]
        self._names: dict[str, str] = {}
        if self.spec.recurrent:
            self._find_state()
        normalizer = Normalizer.fresh(
            self.spec.observation_size,
            observations=config["normalize_observations"],
            rewards=config["normalize_rewards"],
        )
        self._statistics: dict[str, str] = {}
        for name, value in ({} if normalizer is None else normalizer.as_arrays()).items():
            self._statistics[name] = name.replace(".", "/")
            self.register_buffer(self._statistics[name], torch.from_numpy(value))
        for name, shape in self.spec.shapes.items():
            self._register(name, torch.zeros(shape))
            if learned_inner_lr is not None:
                self._register(INNER_LR + name, torch.full(shape, learned_inner_lr))
        head = self.spec.head
        self.action_dist_cls: Any = TorchDiagGaussian
        if not isinstance(head, GaussianHead | StateGaussianHead):
            counts = getattr(head, "counts", [2] * head.action_size)
            self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=list(counts))

    def _find_state(self) -> None:
        """What a state consists of, and which dimension of each part counts episodes: torch's GRU has it second."""
        assert isinstance(self.spec, TorchPolicy)
        theta = self.spec.init_params(0)
        one, self._state_tree = tree_flatten(self.spec.initial_state(theta, 1))
        two = tree_leaves(self.spec.initial_state(theta, 2))
        self._episode_dims = [
            next(dim for dim, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n)
            for a, b in zip(one, two, strict=True)
        ]

    def _register(self, name: str, value: Tensor) -> None:
        self._names[name] = name.replace(".", "/")  # torch allows no dot in the name of a parameter
        self.register_parameter(self._names[name], torch.nn.Parameter(value))

    def meta_params(self) -> Params:
        """The meta-parameters, detached."""
        return {name: getattr(self, key).detach() for name, key in self._names.items()}

    @property
    def normalizer(self) -> Normalizer | None:
        """Running statistics of observations and returns, if there are any."""
        return Normalizer.from_arrays(
            {name: getattr(self, key).cpu().numpy().copy() for name, key in self._statistics.items()}
        )

    def set_meta_params(self, params: Params) -> None:
        """Overwrite the meta-parameters and running statistics named in ``params``."""
        names = self._names | self._statistics
        with torch.no_grad():
            for name, value in params.items():
                getattr(self, names[name]).copy_(value)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        theta = theta_of(self.meta_params())
        observations = batch[Columns.OBS].flatten(2 if self.spec.recurrent else 1).float()
        observations = ObservationScale(self.normalizer)(observations)
        stacked = {name: value[None] for name, value in theta.items()}
        if not self.spec.recurrent:
            policy = self.spec(stacked, observations[None])
            return {Columns.ACTION_DIST_INPUTS: _inputs(policy)}
        assert isinstance(self.spec, TorchPolicy)
        leaves = list(batch[Columns.STATE_IN].values()) if Columns.STATE_IN in batch else []
        state = None
        if leaves:
            inner = [x.movedim(0, dim) for x, dim in zip(leaves, self._episode_dims, strict=True)]
            state = tree_unflatten(inner, self._state_tree)
        outputs, state = self.spec.unroll(theta, observations, state)
        policy = distribution(self.spec.head, outputs[None], stacked)
        after = {
            str(i): leaf.movedim(dim, 0)
            for i, (leaf, dim) in enumerate(zip(tree_leaves(state), self._episode_dims, strict=True))
        }
        return {Columns.ACTION_DIST_INPUTS: _inputs(policy), Columns.STATE_OUT: after}

    def get_initial_state(self) -> dict[str, Tensor]:
        """Of one episode; empty if nothing is remembered. Inputs are ``[episodes, steps, ...]`` otherwise."""
        if not self.spec.recurrent:
            return {}
        assert isinstance(self.spec, TorchPolicy)
        theta = theta_of(self.meta_params())
        leaves = tree_leaves(self.spec.initial_state(theta, 1))
        return {
            str(i): leaf.detach().select(dim, 0)
            for i, (leaf, dim) in enumerate(zip(leaves, self._episode_dims, strict=True))
        }


def _inputs(policy: Distribution) -> Tensor:
    """What RLlib's distributions are made from, of one task."""
    if isinstance(policy, StateGaussian):
        return policy.outputs[0]
    if isinstance(policy, Gaussian):
        return torch.cat([policy.mean[0], policy.log_std.expand_as(policy.mean[0])], dim=-1)
    if isinstance(policy, Bernoulli):
        logits = policy.logits[0]
        return torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(-2)
    assert isinstance(policy, Categorical)
    return policy.logits[0]
