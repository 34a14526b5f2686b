"""Any ``torch.nn.Module`` as a function of parameters that are stacked over tasks."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_leaves, tree_map

logger = logging.getLogger(__name__)

Params = dict[str, Tensor]

# The second derivative with respect to an adapted scale is silently wrong under vmap (torch 2.13).
_WRONG_UNDER_VMAP = (nn.modules.batchnorm._BatchNorm,)


@dataclass
class StackedModule:
    """A module whose parameters are values, never swapped in and kept.

    Inputs and outputs are ``[tasks, n, ...]``; inputs may also be dictionaries and tuples of such tensors.

    Parameters with ``requires_grad=False`` are part of the module and not of the meta-parameters: they are neither
    adapted nor trained. One that ``forward`` does not use stays as it is.

    Tasks are computed at once by ``torch.func.vmap``. Where vmap is wrong (batch normalisation) or refuses the
    module (its first call shows it: recurrent cells, code that branches on data or writes in place), they are
    computed one after the other, with the same result.

    Attributes:
        module: its parameters at construction are where training starts. It must be a function of its parameters
            and inputs: nothing random, no state that a call changes (both are fine in ``.eval()``).
        adapt_only: prefixes of the parameters that the inner loop changes; empty for all.
        vectorize: False computes tasks one after the other; True insists on vmap; None finds out.
    """

    module: nn.Module
    adapt_only: tuple[str, ...] = ()
    vectorize: bool | None = None
    _at_once: bool | None = field(default=None, init=False, repr=False)
    _writes_to_inputs: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._copies = _Copies(self.module)
        for name, part in self.module.named_modules():
            _check_repeatable(name or type(part).__name__, part)
        names = list(self.init_params(None))
        if not names:
            raise ValueError("module: no parameter has requires_grad=True; there is nothing to learn")
        for prefix in self.adapt_only:
            if not any(name.startswith(prefix) for name in names):
                raise ValueError(
                    f"adapt_only holds {prefix!r}, but no trainable parameter begins so: {', '.join(names)}"
                )
        if self.vectorize not in (None, True, False):
            raise ValueError(f"vectorize is {self.vectorize!r}; it must be True, False or None")

    def own(self, params: Mapping[str, Tensor]) -> nn.Module:
        """The module to be called with ``params``: a copy in another thread or on another device than its own.

        What is no parameter, such as buffers and frozen weights, lies where ``params`` do.
        """
        return self._copies.get(next(iter(params.values())).device)

    def init_params(self, rng: np.random.Generator | None) -> Params:
        """Copies of the module's trainable parameters: no random numbers are used."""
        return {
            name: value.detach().clone()
            for name, value in self.module.named_parameters()
            if value.requires_grad
        }

    def adapted(self, name: str) -> bool:
        return not self.adapt_only or name.startswith(self.adapt_only)

    def __call__(self, params: Params, inputs: Any) -> Tensor:
        if self._at_once is None:
            self._at_once = self._try(params, inputs)
        if self._writes_to_inputs:
            inputs = tree_map(torch.clone, inputs)
        return vmap(self._one_task)(params, inputs) if self._at_once else self._stack(params, inputs)

    def _one_task(self, params: Mapping[str, Tensor], inputs: Any) -> Tensor:
        outputs = functional_call(self.own(params), dict(params), (inputs,))
        if not isinstance(outputs, Tensor):
            raise ValueError(f"module: forward returned {type(outputs).__name__}; it must return one tensor")
        return outputs

    def _stack(self, params: Params, inputs: Any) -> Tensor:
        def part(i: int) -> Any:
            return tree_map(lambda x: x[i], inputs)

        count = len(next(iter(params.values())))
        tasks = [self._one_task({n: value[i] for n, value in params.items()}, part(i)) for i in range(count)]
        return torch.stack(tasks)

    def module_with(self, params: Params) -> nn.Module:
        """A copy of the module that holds ``params``."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(params, strict=False)
        return module

    # --- the first call

    @torch.enable_grad()
    def _try(self, params: Params, inputs: Any) -> bool:
        """Whether tasks can be computed at once: whether the first two have the same outputs and gradients so.

        Raises:
            ValueError: the module is not a function of parameters and inputs, or ``vectorize`` insists in vain.
        """
        few = {name: value[:2].detach().clone().requires_grad_() for name, value in params.items()}
        given = tree_map(lambda x: x[:2].clone(), inputs)
        expected = _with_gradients(self._plain(few, given), few)
        self._writes_to_inputs = any(x._version > 0 for x in tree_leaves(given))
        if self.vectorize is False:
            return False
        if any(isinstance(part, _WRONG_UNDER_VMAP) for part in self.module.modules()):
            if self.vectorize:
                raise ValueError("vectorize is True, but vmap gets batch normalisation wrong; leave it out")
            return False
        try:
            found = _with_gradients(vmap(self._one_task)(few, tree_map(lambda x: x[:2].clone(), inputs)), few)
        except Exception as error:  # what vmap refuses, it refuses with many classes
            if self.vectorize:
                raise ValueError(f"vectorize is True, but vmap refuses the module: {error}") from error
            logger.info("tasks are computed one after the other, for vmap refuses the module: %s", error)
            return False
        return all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
            for a, b in zip(found, expected, strict=True)
        )

    def _plain(self, params: Params, inputs: Any) -> Tensor:
        """The outputs, without vmap; what the module must not do is found on the way."""
        module = self.own(params)
        state = {name: value.clone() for name, value in module.named_buffers()}
        random = torch.get_rng_state()
        outputs = self._stack(params, inputs)
        if not torch.equal(random, torch.get_rng_state()):
            raise ValueError(
                "module: forward draws random numbers, but a run is a function of its seed; remove what is random, "
                "or call .eval() where that turns it off"
            )
        for name, value in module.named_buffers():
            if not torch.equal(state[name], value):
                raise ValueError(
                    f"module: forward changes the buffer {name}, which adaptation to one task would change for all"
                )
        return outputs


class _Copies:
    """A module for each thread and device: in a call of it its parameters are replaced in place."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        self._local = threading.local()
        self._local.modules = {self._device: module}

    def get(self, device: torch.device) -> nn.Module:
        modules = self._local.__dict__.setdefault("modules", {})
        if device not in modules:
            modules[device] = copy.deepcopy(self._module).to(device)
        return modules[device]

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self._module}  # of threads nothing can be told elsewhere

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["module"])  # type: ignore[misc]


def _with_gradients(outputs: Tensor, params: Params) -> list[Tensor]:
    objective = outputs.square().sum()
    if not objective.requires_grad:
        raise ValueError("module: the outputs do not depend on any trainable parameter")
    gradients = torch.autograd.grad(
        objective, list(params.values()), allow_unused=True, materialize_grads=True
    )
    return [outputs, *gradients]


def _check_repeatable(name: str, part: nn.Module) -> None:
    """Refuse what is known to be random or to keep state, unless it is switched off by ``.eval()``."""
    if not part.training:
        return
    if getattr(part, "track_running_stats", False):
        raise ValueError(
            f"module {name} tracks running statistics, which adaptation to one task would change for all; "
            "construct it with track_running_stats=False, or call .eval() to use those it has"
        )
    dropout: Any = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0)
    if isinstance(dropout, float) and dropout > 0:
        raise ValueError(
            f"module {name}: dropout is random, but a run is a function of its seed; set it to 0, or call .eval()"
        )
