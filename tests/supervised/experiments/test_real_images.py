"""The real data sets: their layouts, and that a few minutes of training learn characters never seen before.

They are looked for where ``SUPERVISED_OMNIGLOT`` and ``SUPERVISED_MINIIMAGENET`` say, else in ``../shared/data``
beside the repository.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import DATA
from supervised_helpers import with_permuted_support_labels

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Purpose, stream
from supervised.data.image_data import ImageSplits, load_miniimagenet
from supervised.experiments.experiment import Experiment
from supervised.experiments.presets import get_preset
from supervised.learning.meta_step import adaptation_curve
from supervised.learning.trainer import MetaTrainer


def real_data(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable) or DATA / default)
    if not path.exists():
        pytest.skip(f"{path} does not exist; set {variable}")
    return path


@pytest.fixture(scope="module")
def omniglot() -> Experiment:
    config = dataclasses.replace(get_preset("omniglot-5w1s"), meta_batch_size=8, meta_lr=0.002)
    return Experiment(config, real_data("SUPERVISED_OMNIGLOT", "omniglot"))


@pytest.fixture(scope="module")
def trained(omniglot: Experiment) -> Params:
    trainer = MetaTrainer(omniglot.learner, omniglot.training_sampler, omniglot.config, torch.device("cpu"))
    for _ in range(800):
        trainer.step()
    return trainer.params


def check_splits(splits: ImageSplits, counts: tuple[int, int, int], shape: tuple[int, ...]) -> None:
    parts = (splits.train, splits.validation, splits.test)
    assert tuple(map(len, parts)) == counts
    assert len({name for part in parts for name in part.names}) == sum(counts)
    for part in parts:
        assert {images.shape for images in part.images} == {shape}
        assert all(images.dtype == np.uint8 for images in part.images)
    # No drawing or photograph is in two parts.
    seen = [{image.tobytes() for images in part.images for image in images} for part in parts]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_omniglot_is_complete_and_bright_on_dark(omniglot: Experiment) -> None:
    check_splits(omniglot.images, (1100, 100, 423), (20, 28, 28, 1))
    assert 5 < np.mean([images.mean() for images in omniglot.images.test.images]) < 50


def test_miniimagenet_is_read_from_the_zip_file() -> None:
    path = real_data("SUPERVISED_MINIIMAGENET", "miniimagenet/miniImagenet_first130.zip")
    images = load_miniimagenet(path)
    check_splits(images, (64, 16, 20), (images.train.smallest, 84, 84, 3))


def accuracies(omniglot: Experiment, params: Params, *, permute: bool) -> list[float]:
    """On 200 tasks of test characters, after 0 .. 3 steps."""
    episodes = omniglot.test_sampler(stream(0, Purpose.TEST), 200)
    if permute:
        episodes = with_permuted_support_labels(episodes)
    curve = adaptation_curve(omniglot.learner, params, episodes, 3, 4)
    assert curve.accuracies is not None
    return curve.accuracies.mean(1).tolist()


@pytest.mark.slow
def test_characters_never_seen_are_told_apart_from_one_example(omniglot: Experiment, trained: Params) -> None:
    """88.8 % when this was written; 20 % is chance."""
    before, *after = accuracies(omniglot, trained, permute=False)
    assert before < 0.3
    assert min(after) > 0.8


@pytest.mark.slow
def test_with_permuted_labels_they_are_not(omniglot: Experiment, trained: Params) -> None:
    assert max(accuracies(omniglot, trained, permute=True)) < 0.3
