"""Small learners, tasks and generated image data sets for the tests of ``supervised``."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Episodes, Examples
from supervised.data.image_data import ImageClasses, ImageSplits
from supervised.learning.losses import (
    accuracy,
    cross_entropy,
    cross_entropy_summed_over_classes,
    mean_squared_error,
)
from supervised.learning.meta_step import Learner
from supervised.models.networks import MLP, ConvNet, HeadOnly, Network, WithContext

WAYS = 3
IMAGE = (12, 12, 2)
NETWORKS: dict[str, Network] = {
    "regression": MLP((1, 7, 6, 1)),
    "regression with context": WithContext(MLP((3, 7, 6, 1)), (2,)),
    "regression, head only": HeadOnly(MLP((1, 7, 6, 1))),
    "dense": MLP((288, 9, 8, WAYS), norm=True),
    "dense, scale adapted": MLP((288, 9, 8, WAYS), norm=True, adapt_norm=True),
    "strided": ConvNet(2, 12, 5, WAYS, pool=False),
    "strided, scale adapted": ConvNet(2, 12, 5, WAYS, pool=False, adapt_norm=True),
    "strided with context": WithContext(ConvNet(3, 12, 5, WAYS, pool=False), (12, 12, 1)),
    "strided, head only": HeadOnly(ConvNet(2, 12, 5, WAYS, pool=False)),
    "pooled": ConvNet(2, 24, 4, WAYS, pool=True),
    "pooled, scale adapted": ConvNet(2, 24, 4, WAYS, pool=True, adapt_norm=True),
}


def make_learner(name: str, inner_lr: float = 0.1, **settings: object) -> Learner:
    """A learner with one of ``NETWORKS``."""
    if name.startswith("regression"):
        return Learner(NETWORKS[name], mean_squared_error, mean_squared_error, inner_lr, **settings)  # type: ignore[arg-type]
    return Learner(
        NETWORKS[name],
        cross_entropy_summed_over_classes,
        cross_entropy,
        inner_lr / WAYS,
        accuracy=accuracy,
        **settings,  # type: ignore[arg-type]
    )


def make_params(network: Network, seed: int = 0) -> Params:
    """Generic parameters in float64: none of them zero, none of them one."""
    params = network.init_params(np.random.default_rng(seed))
    noise = np.random.default_rng(seed + 1)
    return {
        name: (value.double() + 0.3 * torch.from_numpy(noise.standard_normal(value.shape))).requires_grad_()
        for name, value in params.items()
    }


def make_episodes(name: str, tasks: int = 4, shots: int = 2, seed: int = 0) -> Episodes:
    """Random data that fit a learner of ``make_learner``, float64."""
    rng = np.random.default_rng(seed)

    def examples(n: int) -> Examples:
        if name.startswith("regression"):
            inputs, targets = rng.standard_normal((2, tasks, WAYS * n, 1))
            return Examples(torch.from_numpy(inputs), torch.from_numpy(targets))
        shape = (24, 24, 2) if name.startswith("pooled") else IMAGE
        inputs = rng.standard_normal((tasks, WAYS * n, *shape))
        labels = torch.arange(WAYS).repeat_interleave(n).expand(tasks, -1)
        return Examples(torch.from_numpy(inputs), labels)

    return Episodes(examples(shots), examples(shots + 1))


def to_float32(episodes: Episodes) -> Episodes:
    """The same episodes, labels as they are."""
    return Episodes(*(Examples(x.float(), y.float() if y.is_floating_point() else y) for x, y in episodes))


def with_permuted_support_labels(episodes: Episodes) -> Episodes:
    """One-shot tasks whose support labels say nothing about the query's."""
    rng, (tasks, ways) = np.random.default_rng(0), episodes.support.targets.shape
    permuted = torch.from_numpy(np.stack([rng.permutation(ways) for _ in range(tasks)]))
    return episodes._replace(support=Examples(episodes.support.inputs, permuted))


def numeric_gradient(function: Callable[[Params], Tensor], params: Params, step: float = 1e-6) -> Params:
    """Directional derivatives along a random direction per parameter, by symmetric differences."""
    rng = np.random.default_rng(5)
    result = {}
    for name, value in params.items():
        direction = torch.from_numpy(rng.standard_normal(value.shape))
        ends = [
            function({**params, name: (value + sign * step * direction).detach().requires_grad_()})
            for sign in (1, -1)
        ]
        result[name] = ((ends[0] - ends[1]) / (2 * step)).detach()
    return result


def along_direction(gradients: Params) -> Params:
    """The same directional derivatives from a gradient."""
    rng = np.random.default_rng(5)
    return {
        name: (value * torch.from_numpy(rng.standard_normal(value.shape))).sum()
        for name, value in gradients.items()
    }


# --- generated images


def glyph(rng: np.random.Generator, size: int, strokes: int = 3) -> np.ndarray:
    """End points of a character's strokes ``[strokes, 4]``."""
    return rng.uniform(0.15 * size, 0.85 * size, (strokes, 4))


def draw_glyph(points: np.ndarray, size: int, mode: str, jitter: np.ndarray) -> Image.Image:
    """A drawing: black strokes on white, slightly displaced."""
    image = Image.new(mode, (size, size), "white")
    pen = ImageDraw.Draw(image)
    for line in points + jitter:
        pen.line(line.tolist(), fill="black", width=max(2, size // 20))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A zip file of the given files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_omniglot(folder: Path, drawings: int = 2) -> Path:
    """A data set of Omniglot's form with as many characters, but fewer drawings of each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("images_background", 964), ("images_evaluation", 659)):
        files = {}
        for c in range(count):
            points = glyph(rng, 105)
            for d in range(drawings):
                image = draw_glyph(points, 105, "1", rng.uniform(-4, 4, points.shape))
                files[f"{name}/Alphabet{c // 30}/character{c % 30:02d}/{c:04d}_{d:02d}.png"] = encoded(image)
        write_zip(folder / f"{name}.zip", files)
    return folder


def write_miniimagenet(path: Path, per_class: int = 3) -> Path:
    """A data set of MiniImagenet's form with few images per class."""
    rng = np.random.default_rng(0)
    files = {}
    for split, first, count in (("train", 0, 64), ("val", 64, 16), ("test", 80, 20)):
        for c in range(first, first + count):
            colour = rng.integers(0, 200, 3)
            for i in range(per_class):
                noise = rng.integers(0, 50, (84, 84, 3))
                image = Image.fromarray((colour + noise).astype(np.uint8))
                files[f"{split}/n{c:08d}/image{i:03d}.jpg"] = encoded(image, "JPEG")
    return write_zip(path, files)


# --- images that say where they come from

ENCODED = {"train": range(12), "validation": range(100, 106), "test": range(200, 206)}
"""Classes of each part; every byte of an image is the number of its class."""


def encoded_splits(drawings: int = 8) -> ImageSplits:
    """Classes of constant images, too alike to be told apart, but whose values name their class and part."""

    def classes(numbers: range) -> ImageClasses:
        images = (np.full((drawings, 28, 28, 1), number, np.uint8) for number in numbers)
        return ImageClasses(tuple(f"class{number}" for number in numbers), tuple(images))

    return ImageSplits(**{part: classes(numbers) for part, numbers in ENCODED.items()})
