"""Nothing leaks: every stage sees the classes and the random numbers of its own part, end to end.

Every byte of the images here is the number of its class, so that what a network is given says where it comes from.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from supervised_helpers import ENCODED, encoded_splits

from supervised.data import episodes
from supervised.data.episodes import Purpose, stream
from supervised.data.image_data import ImageClasses, ImageSplits
from supervised.experiments import experiment as experiment_module
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.evaluation import evaluate
from supervised.experiments.experiment import Experiment
from supervised.learning.meta_step import adaptation_curve
from supervised.learning.trainer import MetaTrainer

TINY: dict[str, Any] = {
    "problem": "omniglot",
    "ways": 3,
    "shots": 1,
    "query": 2,
    "hidden_sizes": (),
    "filters": 2,
    "iterations": 3,
    "meta_batch_size": 6,
    "report_every": 1,
    "validate_every": 1,
    "validation_episodes": 20,
    "test_steps": 1,
}
METHODS = ("maml", "first-order", "anil", "context-vector", "classifier")


def experiment_with(**settings: Any) -> Experiment:
    experiment = Experiment(ExperimentConfig(**(TINY | settings)))
    experiment.__dict__["images"] = encoded_splits()
    return experiment


class Watch:
    """Which parts' classes a network has been given, and how often each class."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.classes: Counter[int] = Counter()
        original = experiment_module.bytes_to_floats

        def spy(images: torch.Tensor) -> torch.Tensor:
            values, counts = images.unique(return_counts=True)
            self.classes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            return original(images)

        monkeypatch.setattr(experiment_module, "bytes_to_floats", spy)

    def parts(self) -> set[str]:
        """Since the last call."""
        seen = {part for part, numbers in ENCODED.items() for n in self.classes if n in numbers}
        assert sum(n in numbers for n in self.classes for numbers in ENCODED.values()) == len(self.classes)
        self.classes.clear()
        return seen


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_each_stage_sees_the_classes_of_its_part_alone(method: str, watch: Watch) -> None:
    experiment = experiment_with(method=method)
    trainer = experiment.trainer(torch.device("cpu"))
    for _ in range(3):
        trainer.step()
    assert set(watch.classes) >= set(list(ENCODED["train"])[:6])  # many of them, not one
    assert watch.parts() == {"train"}
    experiment.problem.validate(trainer.params)
    assert set(watch.classes) == set(ENCODED["validation"])
    assert watch.parts() == {"validation"}
    stages: dict[str, set[str]] = {}

    def begin(name: str, done: int, total: int) -> None:
        if name == "nearest neighbour":  # the second of a classifier's two
            stages["fine-tuning"] = watch.parts()

    rows = evaluate(experiment, trainer.params, steps=1, episodes=20, seed=0, on_progress=begin)
    stages[rows[-1].name] = watch.parts()
    if method == "classifier":  # its step size is tuned, on validation tasks
        assert stages == {"fine-tuning": {"validation", "test"}, "nearest neighbour": {"test"}}
    else:
        assert stages == {method: {"test"}}


def test_a_step_size_is_chosen_by_the_validation_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test classes that would prefer another step size do not change it."""
    chosen = []
    for test_value in (200, 205):
        experiment = experiment_with(method="classifier")
        splits = encoded_splits()
        others = tuple(np.full((8, 28, 28, 1), test_value + i, np.uint8) for i in range(6))
        experiment.__dict__["images"] = ImageSplits(
            splits.train, splits.validation, ImageClasses(splits.test.names, others)
        )
        params = experiment.trainer(torch.device("cpu")).params
        rows = evaluate(experiment, params, steps=1, episodes=10, seed=0)
        chosen.append((rows[0].step_size, rows[0].values.sum()))
    assert chosen[0][0] == chosen[1][0]


# --- random numbers


def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Names of the random streams from now on, in order."""
    asked: list[tuple[Any, ...]] = []
    original = np.random.SeedSequence

    def spy(entropy: Any = None, **kwargs: Any) -> Any:
        if "spawn_key" in kwargs:
            asked.append((entropy, *kwargs["spawn_key"]))
        return original(entropy, **kwargs)

    monkeypatch.setattr(episodes.np.random, "SeedSequence", spy)
    return asked


@pytest.mark.parametrize(
    "settings",
    [
        *({"method": method} for method in METHODS),
        *(
            {"problem": "sinusoid", "method": method, "ways": 1, "hidden_sizes": (5,), "filters": 64}
            for method in ("maml", "pretrained", "oracle")
        ),
    ],
    ids=lambda settings: f"{settings.get('problem', 'omniglot')}-{settings['method']}",
)
def test_every_purpose_has_a_stream_of_its_own(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_with(**settings)
    asked = asked_for(monkeypatch)
    trainer = experiment.trainer(torch.device("cpu"))
    for _ in range(3):
        trainer.step()
    assert asked == [(0, Purpose.INITIALISATION), *((0, Purpose.TRAINING, i) for i in range(3))]
    asked.clear()
    experiment.problem.validate(trainer.params)
    assert asked == [(0, Purpose.VALIDATION)]
    asked.clear()
    evaluate(experiment, trainer.params, steps=1, episodes=3, seed=7)
    assert {key[0] for key in asked} == {7}
    tuned = settings["method"] in ("classifier", "pretrained")
    assert {key[1] for key in asked} == ({Purpose.TEST, Purpose.TUNING} if tuned else {Purpose.TEST})


def test_streams_differ_by_seed_purpose_and_key() -> None:
    keys = [(s, p, *k) for s in (0, 1) for p in Purpose for k in ((), (0,), (1,))]
    numbers = np.array([stream(*key).integers(2**40, size=4) for key in keys])
    assert len(np.unique(numbers, axis=0)) == len(keys)


def test_every_iteration_has_tasks_of_its_own() -> None:
    seen = []

    class Recorder:
        def __init__(self, sampler: Any) -> None:
            self.sampler = sampler

        def __call__(self, rng: np.random.Generator, tasks: int) -> Any:
            drawn = self.sampler(rng, tasks)
            seen.append(drawn.support.inputs.numpy())
            return drawn

    experiment = experiment_with(problem="sinusoid", ways=1, hidden_sizes=(5,), filters=64)
    sampler = Recorder(experiment.training_sampler)
    trainer = MetaTrainer(experiment.learner, sampler, experiment.config, torch.device("cpu"))
    for _ in range(4):
        trainer.step()
    points = np.concatenate(seen).reshape(4 * TINY["meta_batch_size"], -1)
    assert len(np.unique(points, axis=0)) == len(points)


# --- rotations


def marked(value: int) -> ImageClasses:
    """One class whose images have their mark in the upper left corner."""
    images = np.zeros((8, 28, 28, 1), np.uint8)
    images[:, 0, 0] = value
    return ImageClasses(("a", "b", "c"), (images, images, images))


def corners(images: torch.Tensor) -> set[tuple[bool, ...]]:
    flat = images.reshape(-1, 28, 28)
    return {tuple(bool(image[y, x]) for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))) for image in flat}


@pytest.mark.parametrize("method", ["maml", "classifier"])
def test_omniglots_classes_are_turned_in_training_and_tests(method: str) -> None:
    experiment = experiment_with(method=method)
    experiment.__dict__["images"] = ImageSplits(
        marked(9),
        ImageClasses(("d", "e", "f"), marked(9).images),
        ImageClasses(("g", "h", "i"), marked(9).images),
    )
    for sampler in (experiment.training_sampler, experiment.validation_sampler, experiment.test_sampler):
        drawn = sampler(np.random.default_rng(0), 30)
        assert len(corners(drawn.support.inputs)) == 4
    if method == "classifier":
        assert experiment.classification_sampler.labels == 12
        assert (
            experiment.learner.network.init_params(np.random.default_rng(0))["dense.weight"].shape[-1] == 12
        )


def test_miniimagenets_classes_are_not_turned() -> None:
    experiment = Experiment(ExperimentConfig(**TINY | {"problem": "miniimagenet"}))
    classes = marked(9)
    names = iter("abcdefghi")
    parts = [ImageClasses(tuple(next(names) for _ in range(3)), classes.images) for _ in range(3)]
    experiment.__dict__["images"] = ImageSplits(*parts)
    for sampler in (experiment.training_sampler, experiment.test_sampler):
        assert len(corners(sampler(np.random.default_rng(0), 30).query.inputs)) == 1


def test_validation_returns_loss_and_accuracy_after_the_last_step() -> None:
    experiment = experiment_with(test_steps=2)
    params = experiment.trainer(torch.device("cpu")).params
    measured = experiment.problem.validate(params)
    drawn = experiment.validation_sampler(stream(0, Purpose.VALIDATION), TINY["validation_episodes"])
    curve = adaptation_curve(experiment.learner, params, drawn, 2, 6)
    assert measured.accuracies is not None
    assert curve.accuracies is not None
    torch.testing.assert_close(measured.losses, curve.losses[-1])
    torch.testing.assert_close(measured.accuracies, curve.accuracies[-1])
