"""N-way K-shot tasks from classes of images (Finn et al. 2017, sec. 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from supervised.episodes import Episodes, Examples
from supervised.image_data import ImageClasses, ImageDataError


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
