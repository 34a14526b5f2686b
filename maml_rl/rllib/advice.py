"""Warnings about trainings that get nowhere, each said once, with the remedy."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping

from maml_rl.rllib.metrics import Trials

logger = logging.getLogger("maml_rl")

LARGE, SMALL = 100.0, 1e-3
"""Root mean squares of observations beyond which a network with standard initial weights learns badly."""
STEPS = 10
"""Updates that are looked back on."""

_REMEDY = (
    "set normalize_observations, or scale observations to the order of 1 with a wrapper of fixed constants "
    "(gymnasium.wrappers.TransformObservation)"
)


class Advice:
    """Looks at every iteration."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._accepted: deque[bool] = deque(maxlen=STEPS)

    def look(self, trials: Trials, update: Mapping[str, float]) -> None:
        """Warn of what this iteration shows."""
        scale = trials.observation_scale
        if math.isfinite(scale) and not SMALL <= scale <= LARGE:
            self._say("scale", f"observations have a root mean square of {scale:.3g}: {_REMEDY}")
        self._accepted.append(update.get("step_accepted", 0.0) > 0)
        if len(self._accepted) == STEPS and sum(self._accepted) < STEPS / 2:
            self._say(
                "refused",
                f"{STEPS - sum(self._accepted)} of the last {STEPS} updates were not accepted, and the policy "
                f"hardly changes: {_REMEDY}; or collect more episodes per task, or try another inner_lr",
            )

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning(text)
