"""RLlib's ways to describe a network, as fields of ``MAMLConfig``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor, nn

_FIELDS = {
    "fcnet_hiddens": "hidden_sizes",
    "fcnet_activation": "activation",
    "fcnet_use_layernorm": "layer_norm",
    "conv_filters": "conv_filters",
    "lstm_cell_size": "recurrent_size",
}
_ALIASES = {"swish": "silu", "lrelu": "leaky_relu"}
_OF_NOTHING = ("conv_activation", "free_log_std", "vf_share_layers", "max_seq_len", "use_lstm")
"""Without effect here, or looked at by themselves."""


def fields_of(model_config: DefaultModelConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """What a ``DefaultModelConfig``, or a dictionary of some of its fields, says.

    Raises:
        ValueError: a field means nothing here; the message says what to do.
    """
    default = dataclasses.asdict(DefaultModelConfig())
    if isinstance(model_config, DefaultModelConfig):
        given = dataclasses.asdict(model_config)
    else:
        given = dict(model_config or {})
    for name, value in given.items():
        if name not in default:
            raise ValueError(f"model_config holds {name!r}; it must be a field of DefaultModelConfig")
        if name not in _FIELDS and name not in _OF_NOTHING and value != default[name]:
            raise ValueError(
                f"model_config: {name} is {value!r}, but MAML does not use it; layers belong into fcnet_hiddens"
            )
    fields = {ours: given[theirs] for theirs, ours in _FIELDS.items() if theirs in given}
    if "activation" in fields:
        fields["activation"] = _ALIASES.get(fields["activation"], fields["activation"])
    if fields.get("conv_filters"):
        fields["conv_filters"] = [tuple(one) for one in fields["conv_filters"]]
        names = ("conv_activation", "fcnet_activation")
        of_maps, of_units = (given.get(name, default[name]) for name in names)
        if of_maps != of_units:
            raise ValueError(
                f"model_config: conv_activation is {of_maps!r}, but fcnet_activation is {of_units!r}: there is one "
                "activation for all layers"
            )
    if given.get("use_lstm"):
        return fields | {"recurrent": "lstm"}
    fields.pop("recurrent_size", None)
    return fields


class OfRLModule(nn.Module):
    """A user's RLModule as ``ModulePolicy`` takes one: observations in, inputs of the action distribution out."""

    def __init__(self, spec: RLModuleSpec, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        own = dataclasses.replace(spec, observation_space=observation_space, action_space=action_space)
        self.rl_module: Any = own.build()
        if self.rl_module.is_stateful():
            self.initial_state = self._initial_state

    def _initial_state(self, n: int) -> Any:
        return {
            name: torch.as_tensor(x).expand(n, *x.shape)
            for name, x in self.rl_module.get_initial_state().items()
        }

    def forward(self, observations: Any, state: Any = None) -> Tensor | tuple[Tensor, Any]:
        batch = {Columns.OBS: observations}
        if state is None:
            return self.rl_module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]
        output = self.rl_module.forward_train({**batch, Columns.STATE_IN: state})
        return output[Columns.ACTION_DIST_INPUTS], output[Columns.STATE_OUT]
