"""Omniglot and MiniImagenet in their standard layouts and splits, and any other folder of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from supervised.data.image_files import ImageDataError, read_images

OMNIGLOT_CLASSES = 1623
OMNIGLOT_TRAIN = 1100  # code: 1100 characters for training and 100 for validation, of 1200 (paper)
OMNIGLOT_VALIDATION = 100
OMNIGLOT_ARCHIVES = ("images_background", "images_evaluation")
SPLIT_SEED = 1
MINIIMAGENET_SPLITS = {"train": 64, "val": 16, "test": 20}  # Ravi & Larochelle 2017
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of folders that hold the classes of a split."""


@dataclass(frozen=True)
class ImageClasses:
    """Images of several classes, as bytes.

    Attributes:
        names: of the classes, from the folders.
        images: one array ``[count, size, size, channels]`` per class.
    """

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def smallest(self) -> int:
        """Images of the smallest class."""
        return min(len(images) for images in self.images)

    def select(self, indices: np.ndarray) -> ImageClasses:
        """Some of the classes."""
        return ImageClasses(tuple(self.names[i] for i in indices), tuple(self.images[i] for i in indices))


@dataclass(frozen=True)
class ImageSplits:
    """Training, validation and test classes: no class is in two of them."""

    train: ImageClasses
    validation: ImageClasses
    test: ImageClasses

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for part in (self.train, self.validation, self.test):
            if common := seen & set(part.names):
                raise ImageDataError(f"class {min(common)} is in more than one of train, validation and test")
            seen |= set(part.names)


def load_omniglot(folder: Path) -> ImageSplits:
    """1100 training, 100 validation and 423 test characters, 28x28, ink white on black.

    The paper draws its 1200 characters at random without naming them; here the shuffle has a fixed seed.

    Args:
        folder: holds ``images_background`` and ``images_evaluation``, as folders or zip files.

    Raises:
        ImageDataError: naming the file or class and what is wrong with it.
    """
    found: dict[str, np.ndarray] = {}
    for name in OMNIGLOT_ARCHIVES:
        found |= read_images(_folder_or_zip(folder, name), 28, "L")
    if len(found) != OMNIGLOT_CLASSES:
        raise ImageDataError(f"{folder}: {len(found)} characters found; Omniglot has {OMNIGLOT_CLASSES}")
    whole = ImageClasses(tuple(found), tuple(255 - images for images in found.values()))
    return _in_parts(whole, OMNIGLOT_TRAIN, OMNIGLOT_VALIDATION)


def load_miniimagenet(path: Path) -> ImageSplits:
    """64 training, 16 validation and 20 test classes, 84x84 in colour.

    Args:
        path: a folder or zip file that holds ``train``, ``val`` and ``test``, each with a folder per class.

    Raises:
        ImageDataError: naming the file or class and what is wrong with it.
    """
    found = read_images(path, 84, "RGB")
    splits = {}
    for split, count in MINIIMAGENET_SPLITS.items():
        splits[split] = _below(found, (split,))
        if len(splits[split]) != count:
            raise ImageDataError(f"{path}: {split} holds {len(splits[split])} classes; it must hold {count}")
    return ImageSplits(splits["train"], splits["val"], splits["test"])


def load_folder(path: Path, size: int, validation_fraction: float, test_fraction: float) -> ImageSplits:
    """Any folder or zip file with a folder of images per class.

    Where it holds folders ``train``, ``val`` (or ``valid``, ``validation``) and ``test``, these are the splits.
    Else the classes are shuffled, always in the same way, and the given fractions are for validation and test.

    Args:
        size: images become ``size x size`` in colour; see ``image_files.decode``.

    Raises:
        ImageDataError: naming the file or class and what is wrong with it.
    """
    found = read_images(path, size, "RGB")
    splits = {split: _below(found, folders) for split, folders in SPLIT_FOLDERS.items()}
    present = [split for split, classes in splits.items() if len(classes)]
    if len(present) == len(splits):
        return ImageSplits(**splits)
    if "train" in present:
        missing = next(split for split in splits if split not in present)
        raise ImageDataError(
            f"{path}: there is a folder {SPLIT_FOLDERS['train'][0]}, but none for {missing}, which would be named "
            f"{' or '.join(SPLIT_FOLDERS[missing])}; to split by fractions, name a folder of classes alone"
        )
    whole = ImageClasses(tuple(found), tuple(found.values()))
    validation, test = (
        max(1, round(fraction * len(whole))) for fraction in (validation_fraction, test_fraction)
    )
    train = len(whole) - validation - test
    if train < 1:
        raise ImageDataError(
            f"{path}: {len(whole)} classes; {validation} for validation and {test} for tests leave none to train on"
        )
    return _in_parts(whole, train, validation)


def _below(found: dict[str, np.ndarray], folders: tuple[str, ...]) -> ImageClasses:
    """The classes in folders of these names, by their own names."""
    inside = {}
    for name, images in found.items():
        parts = PurePosixPath(name).parts
        place = next((i for i, part in enumerate(parts[:-1]) if part.lower() in folders), None)
        if place is not None:
            inside["/".join(parts[place + 1 :])] = images
    return ImageClasses(tuple(inside), tuple(inside.values()))


def _in_parts(whole: ImageClasses, train: int, validation: int) -> ImageSplits:
    """Shuffled with a fixed seed; what is left is for tests."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(whole))
    return ImageSplits(
        whole.select(order[:train]),
        whole.select(order[train : train + validation]),
        whole.select(order[train + validation :]),
    )


def _folder_or_zip(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.zip"):
        if path.exists():
            return path
    raise ImageDataError(
        f"{folder} holds neither {name} nor {name}.zip; "
        "name another folder with --data, or fetch Omniglot with: supervised download omniglot"
    )
