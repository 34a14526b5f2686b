"""Distributions of actions, batched over tasks.

Dimensions ``*samples`` are one, the transitions of a task, or two: its episodes and their steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from maml_rl.policies.heads import LOG_STD, CategoricalHead, GaussianHead, Head, StateGaussianHead


class Distribution(ABC):
    """One distribution per sample of every task.

    Attributes:
        parts: the tensors it is made of: the network's outputs ``[tasks, *samples, outputs]``, then what all
            samples of a task share, ``[tasks, ...]``.
    """

    @property
    @abstractmethod
    def parts(self) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def with_parts(self, parts: Iterable[Tensor]) -> Any:
        """The same kind of distribution made of other tensors."""

    @abstractmethod
    def log_prob(self, actions: Float[Tensor, "tasks ... actions"]) -> Float[Tensor, "tasks ..."]:
        """Log-density of each action, *summed* over its components."""

    @abstractmethod
    def kl(self, other: Any) -> Float[Tensor, "tasks ..."]:
        """KL(self || other) of each sample, summed over the action's components."""

    @abstractmethod
    def entropy(self) -> Float[Tensor, "tasks ..."]:
        """Entropy of each sample in nats, summed over the action's components."""

    def detach(self) -> Any:
        return self.with_parts(part.detach() for part in self.parts)

    def leaf(self) -> Any:
        """The same numbers, to be differentiated with respect to ``parts``."""
        return self.with_parts(part.detach().requires_grad_() for part in self.parts)

    def at(self, index: Tensor) -> Any:
        """Some of the samples: transitions, or whole episodes where ``*samples`` are two dimensions."""
        outputs, *shared = self.parts
        return self.with_parts([outputs[:, index], *shared])

    def of_tasks(self, index: Tensor) -> Any:
        """Some of the tasks."""
        return self.with_parts(part[index] for part in self.parts)


@dataclass(frozen=True)
class Gaussian(Distribution):
    """Diagonal Gaussians: one mean per sample, one standard deviation per task."""

    mean: Float[Tensor, "tasks ... actions"]
    log_std: Float[Tensor, "tasks actions"]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.mean, self.log_std

    def with_parts(self, parts: Iterable[Tensor]) -> Gaussian:
        return Gaussian(*parts)

    def log_prob(self, actions: Float[Tensor, "tasks ... actions"]) -> Float[Tensor, "tasks ..."]:
        z = (actions - self.mean) * self._per_sample(torch.exp(-self.log_std))
        constant = self.log_std.sum(-1) + 0.5 * actions.shape[-1] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - self._per_sample(constant)

    def kl(self, other: Gaussian) -> Float[Tensor, "tasks ..."]:
        inverse_variance = torch.exp(-2 * other.log_std)
        shift = ((self.mean - other.mean).square() * self._per_sample(inverse_variance)).sum(-1)
        ratio = 2 * (self.log_std - other.log_std)
        spread = (torch.exp(ratio) - ratio - 1).sum(-1)
        return 0.5 * (shift + self._per_sample(spread))

    def entropy(self) -> Float[Tensor, "tasks ..."]:
        of_task = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        return self._per_sample(of_task).expand(self.mean.shape[:-1])

    def _per_sample(self, x: Tensor) -> Tensor:
        """What all samples of a task share, ``[tasks, ...]``, with dimensions for the samples."""
        return x[(slice(None), *(None,) * (self.mean.ndim - 2))]


@dataclass(frozen=True)
class StateGaussian(Distribution):
    """Diagonal Gaussians whose deviations depend on the observation.

    Attributes:
        outputs: means, then logarithms of deviations.
    """

    outputs: Float[Tensor, "tasks ... outputs"]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return (self.outputs,)

    def with_parts(self, parts: Iterable[Tensor]) -> StateGaussian:
        return StateGaussian(*parts)

    def log_prob(self, actions: Float[Tensor, "tasks ... actions"]) -> Float[Tensor, "tasks ..."]:
        mean, log_std = self.outputs.chunk(2, -1)
        z = (actions - mean) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def kl(self, other: StateGaussian) -> Float[Tensor, "tasks ..."]:
        (mean, log_std), (of_other, log_std_of_other) = self.outputs.chunk(2, -1), other.outputs.chunk(2, -1)
        ratio = 2 * (log_std - log_std_of_other)
        shift = (mean - of_other).square() * torch.exp(-2 * log_std_of_other)
        return 0.5 * (shift + torch.exp(ratio) - ratio - 1).sum(-1)

    def entropy(self) -> Float[Tensor, "tasks ..."]:
        _, log_std = self.outputs.chunk(2, -1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


@dataclass(frozen=True)
class Categorical(Distribution):
    """Independent categorical variables; an action is the number of each one's category, from 0.

    Attributes:
        logits: unnormalised log-probabilities of all categories, one variable after the other.
        counts: categories of every variable.
    """

    logits: Float[Tensor, "tasks ... categories"]
    counts: tuple[int, ...]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def with_parts(self, parts: Iterable[Tensor]) -> Categorical:
        (logits,) = parts
        return Categorical(logits, self.counts)

    def _log_probs(self) -> list[Tensor]:
        return [log_softmax(logits, -1) for logits in self.logits.split(self.counts, -1)]

    def log_prob(self, actions: Float[Tensor, "tasks ... actions"]) -> Float[Tensor, "tasks ..."]:
        chosen = actions.long().unbind(-1)
        return sum_of(
            torch.take_along_dim(log_probs, index[..., None], -1)[..., 0]
            for log_probs, index in zip(self._log_probs(), chosen, strict=True)
        )

    def kl(self, other: Categorical) -> Float[Tensor, "tasks ..."]:
        pairs = zip(self._log_probs(), other._log_probs(), strict=True)
        return sum_of((p.exp() * (p - q)).sum(-1) for p, q in pairs)

    def entropy(self) -> Float[Tensor, "tasks ..."]:
        return sum_of(-(p.exp() * p).sum(-1) for p in self._log_probs())


@dataclass(frozen=True)
class Bernoulli(Distribution):
    """Independent bits; an action is 0 or 1 for each. ``logits`` are log-odds of a 1."""

    logits: Float[Tensor, "tasks ... actions"]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def with_parts(self, parts: Iterable[Tensor]) -> Bernoulli:
        return Bernoulli(*parts)

    def log_prob(self, actions: Float[Tensor, "tasks ... actions"]) -> Float[Tensor, "tasks ..."]:
        return logsigmoid(self.logits * (2 * actions - 1)).sum(-1)

    def kl(self, other: Bernoulli) -> Float[Tensor, "tasks ..."]:
        one = self.logits.sigmoid() * (logsigmoid(self.logits) - logsigmoid(other.logits))
        zero = (-self.logits).sigmoid() * (logsigmoid(-self.logits) - logsigmoid(-other.logits))
        return (one + zero).sum(-1)

    def entropy(self) -> Float[Tensor, "tasks ..."]:
        one = self.logits.sigmoid() * logsigmoid(self.logits)
        zero = (-self.logits).sigmoid() * logsigmoid(-self.logits)
        return -(one + zero).sum(-1)


def distribution(head: Head, outputs: Tensor, params: Mapping[str, Tensor]) -> Distribution:
    """Of a network's outputs ``[tasks, *samples, outputs]``, with parameters stacked over tasks."""
    shared = []
    if isinstance(head, GaussianHead):
        shared = [params[LOG_STD].clamp(min=math.log(head.min_std))]
    return from_parts(head, [outputs, *shared])


def from_parts(head: Head, parts: Sequence[Tensor]) -> Distribution:
    """A head's distribution made of ``Distribution.parts``."""
    if isinstance(head, GaussianHead):
        return Gaussian(*parts)
    if isinstance(head, StateGaussianHead):
        return StateGaussian(*parts)
    if isinstance(head, CategoricalHead):
        return Categorical(parts[0], head.counts)
    return Bernoulli(*parts)


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape, at least one."""
    first, *others = terms
    for term in others:
        first = first + term
    return first
