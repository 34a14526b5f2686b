"""What the outputs of a policy's network mean, and how rollouts sample actions from them.

No torch here: runners of numpy policies do without it. Its form of the same heads is in ``distributions``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

LOG_STD = "log_std"


@dataclass(frozen=True)
class Head(ABC):
    """A kind of action and its distribution.

    Actions are vectors of ``action_size`` numbers, float32 in trajectories. Noise for all of them is drawn ahead,
    from a generator of the rollout's own.
    """

    kind: ClassVar[str]
    layer: ClassVar[str]
    """Name of the layer that makes the outputs."""

    @property
    @abstractmethod
    def action_size(self) -> int:
        """Numbers that an action consists of."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Outputs of the network."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameters beside those of the network."""
        return {}

    def initial_values(self) -> dict[str, np.ndarray]:
        """Values of these parameters at the start of training."""
        return {}

    @abstractmethod
    def noise(self, rng: np.random.Generator, steps: int, episodes: int, params: Params) -> np.ndarray:
        """What makes ``steps`` actions of ``episodes`` episodes random, ``[steps, episodes, ...]``."""

    @abstractmethod
    def act(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions ``[episodes, action_size]``; NaN where outputs are not finite.

        Args:
            outputs: of the network, ``[episodes, outputs]``.
            noise: of one step.
        """

    def as_dict(self) -> dict[str, Any]:
        """What ``make_head`` makes the same head from."""
        return {"kind": self.kind, **asdict(self)}


Params = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SizedHead(Head):
    """Of ``size`` numbers, with an output for each."""

    size: int

    @property
    def action_size(self) -> int:
        return self.size

    @property
    def outputs(self) -> int:
        return self.size


@dataclass(frozen=True)
class GaussianHead(SizedHead):
    """Numbers, from Gaussians with a state-independent ``log_std`` that is adapted like any other parameter.

    Actions of bounded boxes live in [-1, 1] per dimension; scaling to the box is the rollout's business.
    """

    initial_std: float = 1.0
    min_std: float = 1e-6

    kind = "gaussian"
    layer = "mean"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {LOG_STD: (self.size,)}

    def initial_values(self) -> dict[str, np.ndarray]:
        return {LOG_STD: np.full(self.size, math.log(self.initial_std), np.float32)}

    def std(self, params: Params) -> np.ndarray:
        """Standard deviations ``[size]``."""
        return np.exp(np.maximum(params[LOG_STD], np.float32(math.log(self.min_std))))

    def noise(self, rng: np.random.Generator, steps: int, episodes: int, params: Params) -> np.ndarray:
        drawn = rng.standard_normal((steps, episodes, self.size), np.float32)
        drawn *= self.std(params)
        return drawn

    def act(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return noise + outputs


@dataclass(frozen=True)
class StateGaussianHead(SizedHead):
    """Numbers, from Gaussians whose means and logarithms of deviations are the network's: RLlib's usual ones."""

    kind = "state_gaussian"
    layer = "mean_and_log_std"

    @property
    def outputs(self) -> int:
        return 2 * self.size

    def noise(self, rng: np.random.Generator, steps: int, episodes: int, params: Params) -> np.ndarray:
        return rng.standard_normal((steps, episodes, self.size), np.float32)

    def act(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return outputs[:, : self.size] + np.exp(outputs[:, self.size :]) * noise


@dataclass(frozen=True)
class CategoricalHead(Head):
    """Numbers of categories, from 0: one variable per entry of ``counts``."""

    counts: tuple[int, ...]

    kind = "categorical"
    layer = "logits"

    @property
    def action_size(self) -> int:
        return len(self.counts)

    @property
    def outputs(self) -> int:
        return sum(self.counts)

    def noise(self, rng: np.random.Generator, steps: int, episodes: int, params: Params) -> np.ndarray:
        # Gumbel's: the largest of logits with this noise is distributed by their softmax.
        return rng.gumbel(size=(steps, episodes, self.outputs))

    def act(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        actions = np.empty((len(outputs), len(self.counts)), np.float32)
        end = 0
        for i, count in enumerate(self.counts):
            start, end = end, end + count
            logits = outputs[:, start:end]
            actions[:, i] = (logits + noise[:, start:end]).argmax(1)
            actions[~np.isfinite(logits).all(1), i] = np.nan
        return actions


@dataclass(frozen=True)
class BernoulliHead(SizedHead):
    """Bits."""

    kind = "bernoulli"
    layer = "logits"

    def noise(self, rng: np.random.Generator, steps: int, episodes: int, params: Params) -> np.ndarray:
        return rng.logistic(size=(steps, episodes, self.size))

    def act(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        actions = (outputs + noise > 0).astype(np.float32)
        actions[~np.isfinite(outputs)] = np.nan
        return actions


_ALL: tuple[type[Head], ...] = (GaussianHead, StateGaussianHead, CategoricalHead, BernoulliHead)
HEADS = {head.kind: head for head in _ALL}


def make_head(described: Mapping[str, Any]) -> Head:
    """The head that ``as_dict`` described.

    Raises:
        KeyError, TypeError, ValueError: it is no such description.
    """
    arguments = dict(described)
    kind = arguments.pop("kind")
    if kind not in HEADS:
        raise ValueError(f"head is {kind!r}; it must be one of: {', '.join(HEADS)}")
    if "counts" in arguments:
        arguments["counts"] = tuple(arguments["counts"])
    head = HEADS[kind](**arguments)
    if not (head.outputs >= 1 and head.action_size >= 1):
        raise ValueError(f"head is {head}; it has no action")
    return head
