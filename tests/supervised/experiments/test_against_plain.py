"""What each method trains, validates and evaluates, against the same written plainly from the configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled_images import image_config, image_experiment
from plain_learning import Plain, generic_params, plain, plain_curves, plain_meta_gradient, task

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Episodes, Purpose, stream
from supervised.data.image_tasks import ClassificationSampler, FewShotSampler
from supervised.data.sinusoid import SinusoidSampler
from supervised.experiments.config import METHODS, MULTI_TASK, ExperimentConfig
from supervised.experiments.evaluation import evaluate
from supervised.experiments.experiment import Experiment
from supervised.learning.trainer import MetaTrainer, StartingPoint

CPU = torch.device("cpu")
WITHOUT_INNER_LOOP = ("pretrained", "oracle", "classifier")
TUNED = ("pretrained", *MULTI_TASK)
CONTEXT_LR = 2.0
"""Step size of the few numbers of a context vector: so large that second derivatives count."""
STEPS = 3
"""Gradient steps in evaluations."""
SIZES = (0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)
"""Step sizes that are tried where one is tuned."""


def sinusoid_config(**changes: Any) -> ExperimentConfig:
    settings = {
        "hidden_sizes": (6, 5),
        "shots": 4,
        "query": 6,
        "inner_lr": 0.05,
        "inner_steps": 2,
        "test_steps": 2,
        "meta_batch_size": 3,
        "validation_episodes": 4,
        "seed": 5,
    }
    settings |= {"inner_lr": CONTEXT_LR} if changes.get("method") == "context-vector" else {}
    return ExperimentConfig(**{**settings, **changes})  # type: ignore[arg-type]


def few_images(problem: str = "omniglot", **changes: Any) -> ExperimentConfig:
    meta_learned = changes.get("method") != "classifier"
    settings = {"inner_steps": 2, "test_steps": 2, "seed": 5, "logit_scale": 2.0 if meta_learned else 1.0}
    settings |= {"inner_lr": CONTEXT_LR} if changes.get("method") == "context-vector" else {}
    return image_config(problem, **{**settings, **changes})


CONFIGS = {
    **{f"sinusoid {method}": sinusoid_config(method=method) for method in METHODS["sinusoid"]},
    **{f"omniglot {method}": few_images(method=method) for method in METHODS["omniglot"]},
    "omniglot, two shots": few_images(shots=2),
    "omniglot, scale adapted": few_images(adapt_norm=True),
    "omniglot dense": few_images(hidden_sizes=(6, 5)),
    "omniglot dense anil": few_images(hidden_sizes=(6, 5), method="anil"),
    "omniglot dense, scale adapted": few_images(hidden_sizes=(6, 5), adapt_norm=True),
    "sinusoid context-vector of 3": sinusoid_config(method="context-vector", context_size=3),
    **{
        f"miniimagenet {method}": few_images("miniimagenet", method=method)
        for method in ("maml", "classifier")
    },
}
TRAINED = [name for name, config in CONFIGS.items() if config.method not in MULTI_TASK]


def experiment_of(name: str) -> Experiment:
    config = CONFIGS[name]
    return Experiment(config) if config.problem == "sinusoid" else image_experiment(config)


def training_episodes(experiment: Experiment) -> Episodes:
    """Of the first iteration."""
    config = experiment.config
    rng, rotate = stream(config.seed, Purpose.TRAINING, 0), config.problem == "omniglot"
    if config.problem == "sinusoid":
        told = config.method == "oracle"
        return SinusoidSampler(config.shots, config.query, told)(rng, config.meta_batch_size)
    classes = experiment.images.train
    if config.method == "classifier":
        batch = config.ways * config.query
        return ClassificationSampler(classes, batch, rotate)(rng, config.meta_batch_size)
    sampler = FewShotSampler(classes, config.ways, config.shots, config.query, rotate)
    return sampler(rng, config.meta_batch_size)


def held_out(experiment: Experiment, part: str, seed: int, purpose: Purpose, shots: int, n: int) -> Episodes:
    """Tasks to measure on."""
    config, rng = experiment.config, stream(seed, purpose)
    if config.problem == "sinusoid":
        return SinusoidSampler(shots, 100, config.method == "oracle")(rng, n)
    classes, rotate = getattr(experiment.images, part), config.problem == "omniglot"
    return FewShotSampler(classes, config.ways, shots, config.query, rotate)(rng, n)


def assert_close_params(found: Params, expected: Params) -> None:
    """Up to float32's rounding of a gradient through several layers."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value).abs().max() / value.abs().max().clamp_min(1e-4)
        assert error < 2e-3, (name, float(error))


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_follows_the_gradient_that_the_method_means(name: str) -> None:
    experiment = experiment_of(name)
    config, params = experiment.config, generic_params(experiment)
    trainer = experiment.trainer(CPU, StartingPoint(params))
    assert isinstance(trainer, MetaTrainer)
    assert trainer.params.keys() == params.keys()
    assert all(torch.equal(trainer.params[key], value) for key, value in params.items())
    report = trainer.step()
    found = {key: torch.from_numpy(trainer.state()[f"exp_avg/{key}"]) / 0.1 for key in params}
    steps = 0 if config.method in WITHOUT_INNER_LOOP else config.inner_steps
    episodes, model = training_episodes(experiment), plain(experiment)
    expected, loss = plain_meta_gradient(
        model, params, episodes, steps, first_order=config.method == "first-order"
    )
    assert report.query_loss == pytest.approx(loss, rel=1e-4)
    assert_close_params(found, expected)
    other, _ = plain_meta_gradient(model, params, episodes, steps, first_order=config.method != "first-order")
    if steps:  # the control: that the second derivatives were there, or were not, is seen
        with pytest.raises(AssertionError):
            assert_close_params(found, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_measures_validation_tasks_after_the_steps_of_a_test(name: str) -> None:
    experiment = experiment_of(name)
    config, params = experiment.config, generic_params(experiment)
    measured = experiment.problem.validate(params)
    tasks = config.validation_episodes
    episodes = held_out(experiment, "validation", config.seed, Purpose.VALIDATION, config.shots, tasks)
    if config.method == "classifier":
        right = plain_nearest(plain(experiment), params, episodes)
        assert measured.accuracies is not None
        np.testing.assert_allclose(measured.accuracies, right, rtol=1e-6)
        np.testing.assert_allclose(measured.losses, 1 - right, atol=1e-6)
        return
    steps = 0 if config.method in (*WITHOUT_INNER_LOOP, *MULTI_TASK) else config.test_steps
    losses, accuracies = plain_curves(plain(experiment), params, episodes, steps, config.inner_lr)
    np.testing.assert_allclose(measured.losses, losses[-1], rtol=1e-3)
    if config.problem == "sinusoid":
        assert measured.accuracies is None
    else:
        assert measured.accuracies is not None
        np.testing.assert_allclose(measured.accuracies, accuracies[-1], rtol=1e-6)


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.method != "classifier"])
def test_evaluation_measures_test_tasks_after_every_step(name: str) -> None:
    experiment = experiment_of(name)
    config, params = experiment.config, generic_params(experiment)
    rows = evaluate(experiment, params, steps=STEPS, episodes=4, seed=9)
    shots = (5, 10, 20) if config.problem == "sinusoid" else (config.shots,)
    names = [f"{n}-shot" for n in shots] if config.problem == "sinusoid" else [config.method]
    assert [row.name for row in rows] == names
    for row, n in zip(rows, shots, strict=True):
        step_size = row.step_size if config.method in TUNED else config.inner_lr
        assert row.step_size == (None if config.method == "oracle" else step_size)
        assert step_size is not None
        episodes = held_out(experiment, "test", 9, Purpose.TEST, n, 4)
        losses, accuracies = plain_curves(plain(experiment), params, episodes, STEPS, step_size)
        if config.method == "oracle":  # what it is told is all that it may use
            losses = losses[:1].repeat(STEPS + 1, 0)
        expected = losses if config.problem == "sinusoid" else 100 * accuracies
        np.testing.assert_allclose(row.values, expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["sinusoid pretrained", "sinusoid multi-task"])
def test_a_step_size_is_tuned_on_tasks_that_are_not_tested(name: str) -> None:
    """The lowest loss over the gradient steps, on tasks of the stream for tuning, with as many shots."""
    experiment = experiment_of(name)
    params = generic_params(experiment)
    rows = evaluate(experiment, params, steps=STEPS, episodes=2, seed=9)
    for row, shots in zip(rows, (5, 10, 20), strict=True):
        tasks = experiment.config.validation_episodes
        episodes = held_out(experiment, "", 9, Purpose.TUNING, shots, tasks)
        curves = [plain_curves(plain(experiment), params, episodes, STEPS, size)[0] for size in SIZES]
        losses = [np.nan_to_num(curve[1:].mean(), nan=np.inf) for curve in curves]
        assert row.step_size == SIZES[int(np.argmin(losses))]


# --- the classifier's two uses


def plain_nearest(model: Plain, params: Params, episodes: Episodes) -> np.ndarray:
    """Share of query images whose most similar support image, by cosine, has their label."""
    shares, doubles = [], {name: value.double() for name, value in params.items()}
    for index in range(episodes.tasks):
        support, query = task(episodes, index)
        known, asked = (model.features(doubles, part.inputs) for part in (support, query))
        similar = F.cosine_similarity(asked[:, None], known[None], dim=-1)
        right = support.targets[similar.argmax(-1)] == query.targets
        shares.append(float(right.double().mean()))
    return np.array(shares)


def test_a_classifier_is_fine_tuned_and_looked_up() -> None:
    experiment = experiment_of("omniglot classifier")
    config, params = experiment.config, generic_params(experiment)
    tuned, nearest = evaluate(experiment, params, steps=STEPS, episodes=4, seed=9)
    assert (tuned.name, nearest.name, nearest.step_size) == ("fine-tuning", "nearest neighbour", None)
    model = plain(experiment)
    begin = {
        key: torch.zeros(*value.shape[:-1], config.ways) if key.startswith("dense.") else value
        for key, value in params.items()
    }
    tuning = held_out(experiment, "validation", 9, Purpose.TUNING, config.shots, config.validation_episodes)
    losses = [plain_curves(model, begin, tuning, STEPS, size)[0][1:].mean() for size in SIZES]
    assert tuned.step_size == SIZES[int(np.argmin(losses))]
    test = held_out(experiment, "test", 9, Purpose.TEST, config.shots, 4)
    curves = plain_curves(model, begin, test, STEPS, tuned.step_size)[1]
    # Before the first step all logits are equal, and the first label is named.
    np.testing.assert_allclose(tuned.values, 100 * curves, rtol=1e-6)
    expected = 100 * plain_nearest(model, params, test)
    np.testing.assert_allclose(nearest.values, np.tile(expected, (STEPS + 1, 1)), rtol=1e-6)


def test_the_classifier_tells_all_training_classes_apart() -> None:
    """Of Omniglot in all four turns; of MiniImagenet as they are."""
    for problem, labels in (("omniglot", 4 * 6), ("miniimagenet", 6)):
        experiment = image_experiment(few_images(problem, method="classifier"))
        assert generic_params(experiment)["dense.bias"].shape == (labels,)
        few = dataclasses.replace(experiment.config, method="maml")
        assert generic_params(image_experiment(few))["dense.bias"].shape == (few.ways,)
