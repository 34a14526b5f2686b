"""Baselines of the paper's Table 1: one classifier of all training classes, put to use on few-shot tasks.

It is adapted by fine-tuning all its parameters with a new last layer, or used as it is: nearest neighbour in
its features (Ravi & Larochelle 2017, sec. 5.1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from maml_rl.learning.meta_learner import Params, stack_params
from supervised.data.episodes import Episodes, Purpose, Sampler, stream
from supervised.learning.meta_step import Learner, Measurement, join
from supervised.learning.problem import Validate, chunk_size
from supervised.learning.settings import TrainingSettings
from supervised.models.networks import MLP, ConvNet


def with_new_head(learner: Learner, params: Params) -> Params:
    """The classifier's parameters with a zero last layer, of the size that ``learner``'s network has."""
    head = _embedding(learner).head
    fresh = learner.network.init_params(np.random.default_rng(0))
    return {
        name: torch.zeros_like(fresh[name], device=value.device) if name.startswith(f"{head}.") else value
        for name, value in params.items()
    }


@torch.no_grad()
def nearest_neighbour(
    learner: Learner, params: Params, episodes: Episodes, tasks_per_chunk: int
) -> Measurement:
    """Accuracy of giving each query image the label of the support image with the most similar features.

    Similarity is the cosine. The loss is the share of wrong labels.
    """
    network, chunks = _embedding(learner), []
    for chunk in episodes.chunks(tasks_per_chunk):
        stacked = stack_params(params, chunk.tasks)
        support, query = (
            normalize(network.embed(stacked, learner.prepare(part.inputs)), dim=-1) for part in chunk
        )
        nearest = torch.bmm(query, support.mT).argmax(-1)
        labels = chunk.support.targets.gather(1, nearest)
        accuracies = (labels == chunk.query.targets).float().mean(1)
        chunks.append(Measurement(1 - accuracies, accuracies))
    return join(chunks)


def validation_by_nearest_neighbour(
    learner: Learner, sampler: Sampler, settings: TrainingSettings
) -> Validate:
    """Measure a classifier on validation tasks by nearest neighbour, which needs no tuning."""
    tasks = settings.validation_episodes

    def validate(params: Params) -> Measurement:
        episodes = sampler(stream(settings.seed, Purpose.VALIDATION), tasks)
        device = next(iter(params.values())).device
        return nearest_neighbour(learner, params, episodes.to(device), chunk_size(settings))

    return validate


def _embedding(learner: Learner) -> MLP | ConvNet:
    assert isinstance(learner.network, MLP | ConvNet), "the classifier baseline has no context"
    return learner.network
