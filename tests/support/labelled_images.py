"""Image data sets whose every image can be told apart, so that tests see whose images were put to use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from torch import Tensor

import supervised.experiments.experiment as experiment_module
from supervised.data.image_data import ImageClasses, ImageSplits
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.experiment import Experiment

COUNTS = {"train": 6, "validation": 4, "test": 5}
PER_CLASS = 4
TINY: dict[str, Any] = {
    "ways": 3,
    "shots": 1,
    "query": 2,
    "filters": 3,
    "hidden_sizes": (),
    "inner_lr": 0.1,
    "iterations": 3,
    "meta_batch_size": 2,
    "report_every": 1,
    "validate_every": 1,
    "validation_episodes": 3,
    "test_episodes": 3,
    "test_steps": 1,
}


class Origin(NamedTuple):
    """Where an image comes from, and by how many quarter turns it was turned."""

    split: str
    label: int
    number: int
    turns: int


def noise_splits(problem: str) -> ImageSplits:
    """Images of noise, no two alike and none like another one turned."""
    rng, parts = np.random.default_rng(0), []
    size, channels = Experiment(image_config(problem)).image_shape
    for split, count in COUNTS.items():
        images = rng.integers(0, 256, (count, PER_CLASS, size, size, channels), dtype=np.uint8)
        parts.append(ImageClasses(tuple(f"{split} {i}" for i in range(count)), tuple(images)))
    return ImageSplits(*parts)


def image_config(problem: str = "omniglot", **changes: Any) -> ExperimentConfig:
    """A tiny configuration on images."""
    settings = {**TINY, **changes}
    if settings["hidden_sizes"] and "filters" not in changes:
        del settings["filters"]  # of a network without convolutions
    return ExperimentConfig(problem=problem, **settings)  # type: ignore[arg-type]


def image_experiment(config: ExperimentConfig, splits: ImageSplits | None = None) -> Experiment:
    """An experiment on the given images, by default those of ``noise_splits``, instead of files."""
    experiment = Experiment(config)
    experiment.__dict__["images"] = splits or noise_splits(config.problem)  # where cached_property keeps it
    return experiment


@dataclass(frozen=True)
class Registry:
    """Knows every image of a data set, in all four turns, by its bytes."""

    origins: dict[bytes, Origin]

    @classmethod
    def of(cls, splits: ImageSplits) -> Registry:
        origins = {}
        for split in COUNTS:
            for label, images in enumerate(getattr(splits, split).images):
                for number, image in enumerate(images):
                    for turns in range(4):
                        origins[np.rot90(image, turns).tobytes()] = Origin(split, label, number, turns)
        return cls(origins)

    def look_up(self, images: Tensor) -> list[Origin]:
        """The origins of uint8 images ``[..., height, width, channels]``."""
        flat = images.flatten(0, -4).numpy()
        return [self.origins[image.tobytes()] for image in flat]


@contextmanager
def seen_by_networks() -> Iterator[list[Tensor]]:
    """Every batch of images that is prepared for a network, in order; what is computed stays the same.

    Experiments must be made inside.
    """
    batches: list[Tensor] = []
    prepare = experiment_module.bytes_to_floats

    def recording(images: Tensor) -> Tensor:
        batches.append(images.clone())
        return prepare(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "bytes_to_floats", recording)
        yield batches
