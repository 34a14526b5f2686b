"""Any ``torch.nn.Module`` in the form that the meta-learner needs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from maml_rl.learning.meta_learner import Params

# Modules that a vmap over tasks would get wrong or refuses. Batch normalisation's second derivative with
# respect to an adapted scale is silently wrong under vmap (torch 2.13); recurrent modules are refused where
# their kernels have no batching rule.
_NOT_UNDER_VMAP = (nn.modules.batchnorm._BatchNorm, nn.RNNBase)


@dataclass(frozen=True)
class ModuleNetwork:
    """A module as a network (``networks.Network``): its parameters as values, never swapped in and kept.

    Tasks are computed at once by ``torch.func.vmap``, or one after the other where vmap would be wrong (batch
    normalisation) or is refused (recurrent modules).

    Attributes:
        module: its parameters at construction are where training starts. It must not keep state: batch
            normalisation needs ``track_running_stats=False``.
        adapt_only: prefixes of the parameters that the inner loop changes; empty for all.
    """

    module: nn.Module
    adapt_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, part in self.module.named_modules():
            if getattr(part, "track_running_stats", False):
                raise ValueError(
                    f"module {name or type(part).__name__} tracks running statistics, which adaptation to one "
                    "task would change for all; construct it with track_running_stats=False"
                )
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
                raise ValueError(
                    f"module {name}: dropout is random, but a run is a function of its seed; set p to 0"
                )
        names = [name for name, _ in self.module.named_parameters()]
        if not any(self.adapted(name) for name in names):
            raise ValueError(f"adapt_only is {self.adapt_only}; no parameter begins so: {', '.join(names)}")

    def init_params(self, rng: np.random.Generator) -> Params:
        """Copies of the module's parameters: the seed is not used."""
        return {name: value.detach().clone() for name, value in self.module.named_parameters()}

    def adapted(self, name: str) -> bool:
        return not self.adapt_only or name.startswith(self.adapt_only)

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        def one_task(params: Params, inputs: Tensor) -> Tensor:
            return functional_call(self.module, params, (inputs,))

        if self.one_by_one:
            return _stack(one_task, params, inputs)
        return vmap(one_task)(params, inputs)

    @functools.cached_property
    def one_by_one(self) -> bool:
        """Whether tasks are computed one after the other."""
        return any(isinstance(part, _NOT_UNDER_VMAP) for part in self.module.modules())

    def module_with(self, params: Params) -> nn.Module:
        """A copy of the module that holds ``params``."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(params, strict=False)
        return module


def _stack(function: Callable[[Params, Tensor], Tensor], params: Params, inputs: Tensor) -> Tensor:
    tasks = [
        function({name: value[i] for name, value in params.items()}, inputs[i]) for i in range(len(inputs))
    ]
    return torch.stack(tasks)
