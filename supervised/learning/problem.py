"""A problem: what is learned, on which tasks, and how the best model is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Purpose, Sampler, check_episodes, stream
from supervised.learning.meta_step import Learner, Measurement, adaptation_curve
from supervised.learning.settings import TrainingSettings

Validate = Callable[[Params], Measurement]
"""Loss and accuracy ``[tasks]`` of meta-parameters on the validation tasks."""


@dataclass(frozen=True)
class Problem:
    """What a training run needs.

    Attributes:
        learner: network, losses, inner loop.
        train: draws training tasks.
        validate: measures meta-parameters on held-out tasks, the same every time.
    """

    learner: Learner
    train: Sampler
    validate: Validate


def validation_after_adaptation(
    learner: Learner, sampler: Sampler, settings: TrainingSettings, steps: int
) -> Validate:
    """Measure the query examples of validation tasks after ``steps`` gradient steps."""
    tasks = settings.validation_episodes

    def validate(meta_params: Params) -> Measurement:
        episodes = sampler(stream(settings.seed, Purpose.VALIDATION), tasks)
        check_episodes(episodes, tasks)
        episodes = episodes.to(next(iter(meta_params.values())).device)
        curve = adaptation_curve(learner, meta_params, episodes, steps, chunk_size(settings))
        accuracies = curve.accuracies
        return Measurement(curve.losses[-1], None if accuracies is None else accuracies[-1])

    return validate


def chunk_size(settings: TrainingSettings) -> int:
    """Tasks computed at once; the tasks of a meta-batch unless the configuration says less."""
    return settings.tasks_per_chunk or settings.meta_batch_size
