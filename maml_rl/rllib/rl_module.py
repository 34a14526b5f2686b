"""The policy as an RLlib ``RLModule``: holds the meta-parameters for checkpoints, Tune and inference."""

from __future__ import annotations

import math
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from maml_rl.policies.meta_params import INNER_LR, split_meta_params
from maml_rl.policies.mlp import GaussianMLP, Params


class GaussianMLPModule(TorchRLModule):
    """Meta-parameters as ``torch.nn.Parameter`` under the names of ``GaussianMLP.shapes``.

    The learner reads and writes them as values (``meta_params`` / ``set_meta_params``); the forward methods
    serve RLlib's tools, which expect action-distribution inputs. Actions are in policy units: [-1, 1] per
    dimension stands for the whole action box.
    """

    def setup(self) -> None:
        config = dict(self.model_config)
        learned_inner_lr = config.pop("learned_inner_lr")
        self.spec = GaussianMLP(
            observation_size=math.prod(self.observation_space.shape),
            action_size=math.prod(self.action_space.shape),
            **config,
        )
        self._names: dict[str, str] = {}
        for name, shape in self.spec.shapes.items():
            self._register(name, torch.zeros(shape))
            if learned_inner_lr is not None:
                self._register(INNER_LR + name, torch.full(shape, learned_inner_lr))
        self.action_dist_cls = TorchDiagGaussian

    def _register(self, name: str, value: Tensor) -> None:
        self._names[name] = name.replace(".", "/")  # torch allows no dot in the name of a parameter
        self.register_parameter(self._names[name], torch.nn.Parameter(value))

    def meta_params(self) -> Params:
        """The meta-parameters, detached."""
        return {name: getattr(self, key).detach() for name, key in self._names.items()}

    def set_meta_params(self, params: Params) -> None:
        """Overwrite the meta-parameters named in ``params``."""
        with torch.no_grad():
            for name, value in params.items():
                getattr(self, self._names[name]).copy_(value)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        theta, _ = split_meta_params(self.meta_params(), 0.0)
        stacked = {name: value[None] for name, value in theta.items()}
        policy = self.spec(stacked, batch[Columns.OBS].flatten(1).float()[None])
        log_std = policy.log_std.expand_as(policy.mean[0])
        return {Columns.ACTION_DIST_INPUTS: torch.cat([policy.mean[0], log_std], dim=-1)}
