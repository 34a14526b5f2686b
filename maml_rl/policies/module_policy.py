"""A policy whose network is any ``torch.nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from maml_rl.policies.acting import Actor
from maml_rl.policies.autograd_network import AutogradNetwork, Switches
from maml_rl.policies.distributions import Distribution, distribution
from maml_rl.policies.heads import Head
from maml_rl.policies.policy import Blocks, Params, Policy, Scratch, from_blocks, initial_values
from maml_rl.policies.structure import Leaf, Structure, structured
from maml_rl.policies.torch_policy import TorchPolicy
from maml_rl.tools.stacked_module import StackedModule

STEPS = 3
"""Samples, or episodes and steps, of the trial run."""


class ModuleError(ValueError):
    """A module cannot be a policy's network."""


class ModulePolicy(TorchPolicy):
    """A module from observations to the outputs of the head.

    ``forward(observations)`` gets a batch ``[n, ...]`` of observations in the structure of the environment's
    space (dictionaries and tuples of tensors, categories one-hot, images scaled to [0, 1]) and returns
    ``[n, outputs]``. With a method ``initial_state(n)`` it is recurrent: ``forward(observations, state)`` gets
    whole episodes ``[n, steps, ...]`` and returns outputs ``[n, steps, outputs]`` and the state after the last
    step: a tensor, or a dictionary or tuple of tensors.

    It must be a function of its parameters and inputs alone. Parameters with ``requires_grad=False`` stay as they
    are.

    Args:
        make: makes the module; called with torch's generator seeded. Where it is the same module each time,
            training starts from its parameters.
        name: in messages and files, ``package.module:Class``.
        structure: of observations; None hands on the vectors.

    Raises:
        ModuleError: what the module does that a policy cannot; found by a trial run.
    """

    kind = "module"

    def __init__(
        self,
        make: Callable[[], nn.Module],
        head: Head,
        observation_size: int,
        *,
        name: str,
        structure: Structure | None = None,
        adapt_only: tuple[str, ...] = (),
    ) -> None:
        self.head, self.observation_size, self.name = head, observation_size, name
        self.adapt_only = adapt_only
        self._make = make
        self._structure = structure or Leaf(0, (observation_size,), observation_size)
        module = self._made(0)
        self.recurrent = callable(getattr(module, "initial_state", None))
        remembers = [part for part in module.modules() if isinstance(part, nn.RNNBase | nn.RNNCellBase)]
        if remembers and not self.recurrent:
            raise ModuleError(
                f"module {name} contains {type(remembers[0]).__name__}, but has no initial_state(n): without it "
                "nothing is remembered from step to step"
            )
        try:
            self._stacked = StackedModule(_Whole(module) if self.recurrent else module, adapt_only=())
        except ValueError as error:
            raise ModuleError(f"{name}: {error}") from error
        self._prefix = "module." if self.recurrent else ""
        self._shapes = {
            n.removeprefix(self._prefix): tuple(p.shape) for n, p in self._stacked.init_params(None).items()
        }
        for clash in self._shapes.keys() & head.shapes.keys():
            raise ModuleError(f"module {name} has a parameter {clash}, which the policy has beside it")
        self.check_adapt_only()
        self._try_out()

    def _made(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                module = self._make()
            except Exception as error:  # whatever the user's constructor does
                raise ModuleError(
                    f"module {self.name} cannot be made: {type(error).__name__}: {error}"
                ) from error
        if not isinstance(module, nn.Module):
            raise ModuleError(f"module is {self.name}, which made {module!r}; it must make a torch.nn.Module")
        return module

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes | self.head.shapes

    def init_params(self, seed: int) -> Params:
        """The parameters that the module was made with."""
        values = dict(self._made(seed).named_parameters())
        found = {name: values[name].detach().clone().float() for name in self._shapes}
        return found | initial_values(self.head)

    def __call__(self, params: Mapping[str, Tensor], observations: Tensor) -> Distribution:
        return distribution(self.head, self._outputs(params, observations), params)

    def _outputs(self, params: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        own = {self._prefix + name: params[name] for name in self._shapes}
        return self._stacked(own, structured(self._structure, observations))

    def initial_state(self, params: Mapping[str, Tensor], n: int) -> Any:
        own = {self._prefix + name: params[name] for name in self._shapes}
        return functional_call(_Initial(self._stacked.own(own).module), own, (n,))

    def unroll(
        self, params: Mapping[str, Tensor], observations: Tensor, state: Any = None
    ) -> tuple[Tensor, Any]:
        own = {self._prefix + name: params[name] for name in self._shapes}
        given = structured(self._structure, observations)
        if self.recurrent:
            return functional_call(_Recurrent(self._stacked.own(own).module), own, (given, state))
        return functional_call(self._stacked.own(own), own, (given,)), None

    def network(
        self, blocks: Blocks, observations: Tensor, scratch: Scratch, *, keep: bool, pattern: Any = None
    ) -> AutogradNetwork:
        # The switches of units that others wrote are not known.
        def evaluate(attached: Blocks, switches: Switches) -> Distribution:
            return self(from_blocks(self, attached), observations)

        return AutogradNetwork(evaluate, blocks)

    def as_dict(self) -> dict[str, Any]:
        return _described(self)

    # --- what is found before any worker starts

    @torch.no_grad()
    def _try_out(self) -> None:
        """Run the module on a few observations: alone, together and step by step."""
        generator = torch.Generator().manual_seed(0)
        shape = (STEPS, STEPS) if self.recurrent else (STEPS,)
        vectors = torch.rand((2, *shape, self.observation_size), generator=generator)
        params = {name: x.expand(2, *x.shape) for name, x in self.init_params(0).items()}
        try:
            outputs = self._outputs(params, vectors)
            alone = self._outputs(params, vectors[:, :1])
        except Exception as error:  # whatever the user's forward does
            problem = str(error).partition("\n")[0]
            raise ModuleError(f"module {self.name}: {type(error).__name__}: {problem}") from error
        expected = (*shape, self.head.outputs)
        if outputs.shape[1:] != expected:
            raise ModuleError(
                f"module {self.name} returned outputs of shape {tuple(outputs.shape[1:])}; the actions need "
                f"{expected} ({self.head})"
            )
        if not torch.allclose(outputs[:, :1], alone, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ModuleError(
                f"module {self.name}: an output depends on the other observations of its batch; normalise over "
                "units (LayerNorm), and not over a batch"
            )
        if self.recurrent:
            params_0 = {name: x[0].numpy() for name, x in params.items()}
            actor = self.actor(params_0, STEPS)
            steps = torch.stack([torch.from_numpy(actor(x.numpy())) for x in vectors[0].unbind(1)], dim=1)
            if not torch.allclose(outputs[0], steps, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise ModuleError(
                    f"module {self.name}: outputs of an episode step by step are not those of the whole episode; "
                    "forward must go on from the state it is given, and look at no later step"
                )


class _Initial(nn.Module):
    """The initial state, which may depend on parameters."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, n: int) -> Any:
        return self.module.initial_state(n)


class _Recurrent(nn.Module):
    """A recurrent module, from its initial state or another one."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, observations: Any, state: Any = None) -> Any:
        module: Any = self.module
        first = tree_leaves(observations)[0]
        if state is None:  # it may depend on parameters: it is made here, where they are in place
            state = tree_map(lambda x: x.to(first), module.initial_state(len(first)))
        return module(observations, state)


class _Whole(_Recurrent):
    """On whole episodes: the outputs alone."""

    def forward(self, observations: Any, state: Any = None) -> Any:
        return super().forward(observations)[0]


@dataclass(frozen=True)
class UnknownModule(Policy):
    """What a file tells of a module's policy: files do not choose what is imported, so that it cannot act.

    Attributes:
        name: of the module, ``package.module:Class``.
    """

    name: str
    head: Head
    observation_size: int
    stored_shapes: dict[str, tuple[int, ...]]
    adapt_only: tuple[str, ...] = ()

    kind = ModulePolicy.kind

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.stored_shapes

    def init_params(self, seed: int) -> Params:
        raise self._unknown()

    def __call__(self, params: Mapping[str, Tensor], observations: Tensor) -> Distribution:
        raise self._unknown()

    def actor(self, params: Mapping[str, np.ndarray], episodes: int) -> Actor:
        raise self._unknown()

    def network(self, *args: Any, **kwargs: Any) -> AutogradNetwork:
        raise self._unknown()

    def _unknown(self) -> ModuleError:
        return ModuleError(
            f"module is {self.name!r}, and files do not choose what is imported; if you trust it, name it "
            f"yourself: --module {self.name}"
        )

    def resolved(self, made: Policy | None) -> Policy:
        """The policy that acts, made from the module that a person named.

        Raises:
            ModuleError: nobody did, or it is another one or has other parameters.
        """
        if not isinstance(made, ModulePolicy) or made.name != self.name:
            raise self._unknown()
        if made.as_dict() != self.as_dict():
            raise ModuleError(
                f"module {self.name}: the file holds {self.as_dict()}, but it is {made.as_dict()} now"
            )
        return made

    def as_dict(self) -> dict[str, Any]:
        return _described(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> UnknownModule:
        """The policy that ``as_dict`` described, with its head."""
        shapes = {name: tuple(shape) for name, shape in fields["shapes"].items()}
        return cls(
            fields["module"], fields["head"], fields["observation_size"], shapes, tuple(fields["adapt_only"])
        )


def _described(policy: ModulePolicy | UnknownModule) -> dict[str, Any]:
    return {
        "kind": policy.kind,
        "module": policy.name,
        "head": policy.head.as_dict(),
        "observation_size": policy.observation_size,
        "adapt_only": list(policy.adapt_only),
        "shapes": {name: list(shape) for name, shape in policy.shapes.items()},
    }
