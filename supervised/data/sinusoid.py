"""Sinusoid regression: y = A sin(x - phase) (Finn et al. 2017, sec. 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from supervised.data.episodes import Episodes, Examples

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, np.pi)
INPUT = (-5.0, 5.0)


class Sinusoids(NamedTuple):
    """Task parameters ``[tasks]`` each; phase in radians."""

    amplitude: np.ndarray
    phase: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at ``x [tasks, n]``."""
        return self.amplitude[:, None] * np.sin(x - self.phase[:, None])


def draw_sinusoids(rng: np.random.Generator, tasks: int) -> Sinusoids:
    """Amplitudes and phases of the paper's task distribution."""
    return Sinusoids(rng.uniform(*AMPLITUDE, tasks), rng.uniform(*PHASE, tasks))


@dataclass(frozen=True)
class SinusoidSampler:
    """Draws tasks with ``shots`` support and ``query`` query points each.

    Attributes:
        tell_task: append amplitude and phase to the inputs, for the oracle.
    """

    shots: int
    query: int
    tell_task: bool = False

    def __call__(self, rng: np.random.Generator, tasks: int) -> Episodes:
        return self.episodes(draw_sinusoids(rng, tasks), rng)

    def episodes(self, sinusoids: Sinusoids, rng: np.random.Generator) -> Episodes:
        """Points of the given tasks."""
        tasks = len(sinusoids.amplitude)
        x = rng.uniform(*INPUT, (tasks, self.shots + self.query))
        inputs = self.inputs(sinusoids, x)
        targets = torch.from_numpy(sinusoids(x)[..., None]).float()
        return Episodes(
            Examples(inputs[:, : self.shots], targets[:, : self.shots]),
            Examples(inputs[:, self.shots :], targets[:, self.shots :]),
        )

    def inputs(self, sinusoids: Sinusoids, x: np.ndarray) -> torch.Tensor:
        """What a network gets for points ``x [tasks, n]``: ``[tasks, n, 1]``, or 3 for the oracle."""
        told = [np.broadcast_to(v[:, None], x.shape) for v in sinusoids] if self.tell_task else []
        return torch.from_numpy(np.stack([x, *told], -1)).float()
