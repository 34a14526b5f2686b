"""N-way K-shot tasks from classes of images (Finn et al. 2017, sec. 5.2), and batches of all classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from supervised.data.episodes import Episodes, Examples
from supervised.data.image_data import ImageClasses
from supervised.data.image_files import ImageDataError


@dataclass(frozen=True)
class FewShotSampler:
    """Draws N classes per task, then K support and some query images of each: no image twice in a task.

    Attributes:
        classes: at least ``ways`` of them, each with at least ``shots + query`` images.
        rotate: turn each drawn class by a random multiple of 90 degrees: (character, rotation) is a class, and
            a task has a character at most once, as in the code.
    """

    classes: ImageClasses
    ways: int
    shots: int
    query: int
    rotate: bool = False

    def __post_init__(self) -> None:
        if self.ways > len(self.classes):
            raise ImageDataError(
                f"ways is {self.ways}, but there are only {len(self.classes)} classes to draw from"
            )
        for name, images in zip(self.classes.names, self.classes.images, strict=True):
            if len(images) < self.shots + self.query:
                raise ImageDataError(
                    f"class {name} has {len(images)} images; shots {self.shots} + query {self.query} need "
                    f"{self.shots + self.query}"
                )

    def __call__(self, rng: np.random.Generator, tasks: int) -> Episodes:
        """Inputs ``uint8 [tasks, ways * n, size, size, channels]``, labels ``0 .. ways - 1``, by class."""
        drawn = np.stack([self._task(rng) for _ in range(tasks)])  # [tasks, ways, shots + query, size, ...]
        return Episodes(self._examples(drawn[:, :, : self.shots]), self._examples(drawn[:, :, self.shots :]))

    def _task(self, rng: np.random.Generator) -> np.ndarray:
        chosen = rng.choice(len(self.classes), self.ways, replace=False)
        return np.stack([self._class_images(rng, self.classes.images[i]) for i in chosen])

    def _class_images(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        picked = images[rng.choice(len(images), self.shots + self.query, replace=False)]
        return np.rot90(picked, int(rng.integers(4)), axes=(1, 2)) if self.rotate else picked

    def _examples(self, images: np.ndarray) -> Examples:
        tasks, ways, n = images.shape[:3]
        labels = torch.arange(ways).repeat_interleave(n).expand(tasks, ways * n)
        return Examples(torch.from_numpy(images.reshape(tasks, ways * n, *images.shape[3:])), labels)


@dataclass(frozen=True)
class ClassificationSampler:
    """Batches of ``batch`` images with their class among all classes: no few-shot tasks.

    Rotated classes are classes of their own: label ``4 * class + quarter turns``.
    """

    classes: ImageClasses
    batch: int
    rotate: bool = False

    @property
    def labels(self) -> int:
        """Number of classes to tell apart."""
        return len(self.classes) * (4 if self.rotate else 1)

    def __call__(self, rng: np.random.Generator, tasks: int) -> Episodes:
        """``tasks`` batches; there is nothing to adapt to, so support and query are the same."""
        labels = rng.integers(self.labels, size=(tasks, self.batch))
        images = np.stack([np.stack([self._image(rng, label) for label in row]) for row in labels])
        examples = Examples(torch.from_numpy(images), torch.from_numpy(labels))
        return Episodes(examples, examples)

    def _image(self, rng: np.random.Generator, label: int) -> np.ndarray:
        index, turns = divmod(label, 4) if self.rotate else (label, 0)
        images = self.classes.images[index]
        return np.rot90(images[rng.integers(len(images))], turns)
