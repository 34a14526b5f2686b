"""The numbers that are printed: what a row holds after every step, its interval, the inner loss's scale."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from supervised_helpers import encoded_splits

from supervised.data.episodes import Purpose, stream
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.evaluation import SINUSOID_SHOTS, Row, evaluate, markdown_table, save_rows
from supervised.experiments.experiment import TEST_QUERY_POINTS, Experiment
from supervised.experiments.presets import PRESETS
from supervised.learning.losses import mean_squared_error
from supervised.learning.meta_step import adaptation_curve
from supervised.models.layers import EPSILON, batch_norm

SINUSOID: dict[str, Any] = {"problem": "sinusoid", "hidden_sizes": (6,)}
IMAGES: dict[str, Any] = {
    "problem": "omniglot",
    "ways": 3,
    "shots": 1,
    "query": 2,
    "hidden_sizes": (),
    "filters": 2,
    "inner_lr": 3.0,
}


def experiment_with(settings: dict[str, Any]) -> Experiment:
    experiment = Experiment(ExperimentConfig(**settings))
    rng, splits = np.random.default_rng(0), encoded_splits()
    for part in (splits.train, splits.validation, splits.test):
        for images in part.images:  # some noise, so that accuracies differ between steps
            images += rng.integers(0, 40, images.shape, dtype=np.uint8)
    experiment.__dict__["images"] = splits
    return experiment


def test_images_are_measured_in_percent_after_every_step() -> None:
    experiment = experiment_with(IMAGES)
    params = experiment.trainer(torch.device("cpu")).params
    (row,) = evaluate(experiment, params, steps=3, episodes=20, seed=4)
    drawn = experiment.test_sampler(stream(4, Purpose.TEST), 20)
    curve = adaptation_curve(experiment.learner, params, drawn, 3, 32)
    assert curve.accuracies is not None
    np.testing.assert_allclose(row.values, 100 * curve.accuracies.numpy())
    assert row.values.shape == (4, 20)
    assert len({round(value, 6) for value in row.mean}) > 1  # adaptation did something
    assert row.values.max() > 1


def test_sinusoids_are_measured_by_their_squared_error_after_every_step() -> None:
    experiment = experiment_with(SINUSOID)
    params = experiment.trainer(torch.device("cpu")).params
    rows = evaluate(experiment, params, steps=2, episodes=6, seed=4)
    assert (
        [row.name for row in rows]
        == [f"{shots}-shot" for shots in SINUSOID_SHOTS]
        == ["5-shot", "10-shot", "20-shot"]
    )
    for row, shots in zip(rows, SINUSOID_SHOTS, strict=True):
        drawn = experiment.sampler(shots=shots)(stream(4, Purpose.TEST), 6)
        assert drawn.support.inputs.shape == (6, shots, 1)
        assert drawn.query.inputs.shape == (6, TEST_QUERY_POINTS, 1)
        curve = adaptation_curve(experiment.learner, params, drawn, 2, 32)
        np.testing.assert_allclose(row.values, curve.losses.numpy())
        assert row.step_size == experiment.config.inner_lr


def test_intervals_in_tables_and_files(tmp_path: Path) -> None:
    row = Row("maml", np.array([[1.0, 2.0, 3.0, 4.0], [20.0, 40.0, 60.0, 80.0]]), 0.1)
    half = 1.96 * np.sqrt(5 / 3) / 2  # the sample's deviation over the root of the number of tasks
    np.testing.assert_allclose(row.interval, [half, 20 * half])
    assert Row("one", np.array([[1.0]])).interval == [None]
    assert "| maml | 2.50 ± 1.27 | 50.00 ± 25.30 | 0.1 |" in markdown_table([row], digits=2)
    save_rows([row], tmp_path)
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    np.testing.assert_allclose([float(line["interval_95"]) for line in lines], [half, 20 * half])
    assert [float(line["mean"]) for line in lines] == [2.5, 50.0]
    (stored,) = json.loads((tmp_path / "evaluation.json").read_text())
    np.testing.assert_allclose(stored["interval_95"], [half, 20 * half])
    assert (stored["mean"], stored["tasks"], stored["step_size"]) == ([2.5, 50.0], 4, 0.1)


def test_the_inner_loss_of_images_is_summed_over_the_classes_and_the_outer_one_is_not() -> None:
    """With equal logits every example costs log N: the inner loss is N log N."""
    learner = experiment_with(IMAGES).learner
    logits, labels = torch.zeros(2, 6, 3), torch.arange(3).repeat(2, 2)
    torch.testing.assert_close(learner.inner_loss(logits, labels), torch.full((2,), 3 * np.log(3.0)).float())
    torch.testing.assert_close(learner.outer_loss(logits, labels), torch.full((2,), np.log(3.0)).float())


def test_the_loss_of_sinusoids_is_the_mean_of_squares_inside_and_outside() -> None:
    learner = experiment_with(SINUSOID).learner
    assert learner.inner_loss is learner.outer_loss is mean_squared_error
    outputs, targets = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.0], [0.0]]])
    assert mean_squared_error(outputs, targets).tolist() == [5.0]


@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_batch_normalisation_is_that_of_the_batch_with_the_published_epsilon(scale: float) -> None:
    """(x - mean) / sqrt(variance + 0.001) + offset, over a task's examples; 1e-2 makes the epsilon matter."""
    assert EPSILON == 1e-3
    x = scale * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    offset = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    expected = (x - mean) / (variance + 0.001).sqrt() + offset[:, None]
    torch.testing.assert_close(batch_norm(x, offset), expected)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("sinusoid", {"inner_lr": 0.001, "inner_steps": 1, "shots": 10, "query": 10, "meta_batch_size": 25}),
        (
            "omniglot-5w1s",
            {"inner_lr": 0.4, "inner_steps": 1, "test_steps": 3, "meta_batch_size": 32, "query": 1},
        ),
        ("omniglot-5w5s", {"inner_lr": 0.4, "shots": 5, "query": 5, "ways": 5, "filters": 64}),
        (
            "omniglot-20w1s",
            {"inner_lr": 0.1, "inner_steps": 5, "test_steps": 5, "meta_batch_size": 16, "ways": 20},
        ),
        ("omniglot-20w5s", {"inner_lr": 0.1, "inner_steps": 5, "shots": 5, "query": 5}),
        ("omniglot-5w1s-noconv", {"hidden_sizes": (256, 128, 64, 64), "meta_batch_size": 32}),
        (
            "miniimagenet-1shot",
            {"inner_lr": 0.01, "inner_steps": 5, "test_steps": 10, "query": 15, "filters": 32},
        ),
        ("miniimagenet-5shot", {"meta_batch_size": 2, "shots": 5, "query": 15}),
    ],
)
def test_presets_are_the_papers(preset: str, expected: dict[str, Any]) -> None:
    config = PRESETS[preset]
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.meta_lr == 0.001
    assert config.test_episodes == 600
    assert config.method == "maml"
    assert not config.adapt_norm


def test_presets_are_as_long_as_the_papers_runs() -> None:
    assert PRESETS["sinusoid"].iterations == 70_000
    for name, config in PRESETS.items():
        if config.problem != "sinusoid" and name not in ("omniglot-60w1s", "images"):
            assert config.iterations == 60_000, name
    # 10 on a loss summed over the 75 query examples and divided by the shots
    assert PRESETS["miniimagenet-1shot"].gradient_clip == pytest.approx(10 / 75)
    assert PRESETS["miniimagenet-5shot"].gradient_clip == pytest.approx(50 / 75)
    assert PRESETS["omniglot-5w1s"].gradient_clip == 0
