"""Recorded meta-gradients: the same numbers as computed ones. The recording itself needs a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from supervised_helpers import NETWORKS, make_episodes, make_learner, make_params, to_float32
from torch import Tensor

from supervised.data.episodes import Episodes
from supervised.data.sinusoid import SinusoidSampler
from supervised.learning.graph import Replayed
from supervised.learning.meta_step import meta_gradient
from supervised.learning.settings import ConfigError, TrainingSettings
from supervised.learning.trainer import MetaTrainer

SETTINGS = TrainingSettings(meta_batch_size=4, report_every=1, validate_every=1)


def record_on_the_cpu(function: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """What a CUDA graph does, seen from outside: a replay overwrites the tensors of the recorded result."""
    result = function()

    def replay() -> None:
        for old, new in zip(result, function(), strict=True):
            old.copy_(new)

    return replay, result


def sums(episodes: Episodes) -> list[Tensor]:
    return [x.sum() for part in episodes for x in part]


def test_every_call_sees_its_own_episodes() -> None:
    replayed = Replayed(sums, record_on_the_cpu)
    for seed in range(3):
        episodes = make_episodes("regression", seed=seed)
        assert torch.equal(torch.stack(replayed(episodes)), torch.stack(sums(episodes)))


def test_the_first_episodes_stay_as_they_were() -> None:
    first = make_episodes("regression", seed=0)
    copy = [x.clone() for part in first for x in part]
    replayed = Replayed(sums, record_on_the_cpu)
    replayed(first)
    replayed(make_episodes("regression", seed=1))
    assert all(torch.equal(x, y) for x, y in zip(copy, (x for part in first for x in part), strict=True))


def test_parameters_may_change_in_place_between_calls() -> None:
    learner = make_learner("regression")
    params, episodes = make_params(learner.network), make_episodes("regression")

    def gradients(episodes: Episodes) -> list[Tensor]:
        return list(meta_gradient(learner, params, episodes, 4)[0].values())

    replayed = Replayed(gradients, record_on_the_cpu)
    before = torch.cat([value.flatten() for value in replayed(episodes)])
    with torch.no_grad():
        for value in params.values():
            value.mul_(0.5)
    after = torch.cat([value.flatten() for value in replayed(episodes)])
    assert not torch.equal(before, after)
    assert torch.equal(after, torch.cat([value.flatten() for value in gradients(episodes)]))


def test_other_shapes_are_refused() -> None:
    replayed = Replayed(sums, record_on_the_cpu)
    replayed(make_episodes("regression", tasks=4))
    with pytest.raises(ValueError, match=r"a tensor \[3, 6, 1\] where those recorded had \[4, 6, 1\]"):
        replayed(make_episodes("regression", tasks=3))


def test_a_graph_needs_a_gpu() -> None:
    settings = dataclasses.replace(SETTINGS, capture_graph=True)
    with pytest.raises(ConfigError, match="capture_graph is True, but the device is 'cpu'"):
        MetaTrainer(make_learner("regression"), SinusoidSampler(5, 5), settings, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_recorded_training_is_the_computed_one(name: str, precision: Any) -> None:
    settings = dataclasses.replace(SETTINGS, precision=precision)

    def sampler(rng: np.random.Generator, tasks: int) -> Episodes:
        return to_float32(make_episodes(name, tasks, seed=int(rng.integers(1000))))

    trained = []
    for capture in (False, True):
        learner = make_learner(name)
        trainer = MetaTrainer(
            learner, sampler, dataclasses.replace(settings, capture_graph=capture), torch.device("cuda")
        )
        for _ in range(5):
            trainer.step()
        trained.append(torch.cat([value.flatten() for value in trainer.params.values()]))
    torch.testing.assert_close(trained[0], trained[1])
