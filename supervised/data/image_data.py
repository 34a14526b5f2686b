"""Omniglot and MiniImagenet in their standard layouts and splits, decoded once into bytes in memory.

A data set is a folder or a zip file; images are grouped into classes by the folder they lie in. Nothing is
unpacked on disk.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

OMNIGLOT_CLASSES = 1623
OMNIGLOT_TRAIN = 1100  # code: 1100 characters for training and 100 for validation, of 1200 (paper)
OMNIGLOT_VALIDATION = 100
OMNIGLOT_ARCHIVES = ("images_background", "images_evaluation")
OMNIGLOT_SPLIT_SEED = 1
MINIIMAGENET_SPLITS = {"train": 64, "val": 16, "test": 20}  # Ravi & Larochelle 2017


class ImageDataError(ValueError):
    """Images are missing, corrupt, or not of the form that they must have."""


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
    classes = [read_classes(_folder_or_zip(folder, name), _omniglot_image) for name in OMNIGLOT_ARCHIVES]
    names = tuple(name for part in classes for name in part.names)
    if len(names) != OMNIGLOT_CLASSES:
        raise ImageDataError(f"{folder}: {len(names)} characters found; Omniglot has {OMNIGLOT_CLASSES}")
    whole = ImageClasses(names, tuple(images for part in classes for images in part.images))
    order = np.random.default_rng(OMNIGLOT_SPLIT_SEED).permutation(OMNIGLOT_CLASSES)
    validation_end = OMNIGLOT_TRAIN + OMNIGLOT_VALIDATION
    return ImageSplits(
        whole.select(order[:OMNIGLOT_TRAIN]),
        whole.select(order[OMNIGLOT_TRAIN:validation_end]),
        whole.select(order[validation_end:]),
    )


def load_miniimagenet(path: Path) -> ImageSplits:
    """64 training, 16 validation and 20 test classes, 84x84 in colour.

    Args:
        path: a folder or zip file that holds ``train``, ``val`` and ``test``, each with a folder per class.

    Raises:
        ImageDataError: naming the file or class and what is wrong with it.
    """
    classes = read_classes(path, _miniimagenet_image)
    splits = {}
    for split, count in MINIIMAGENET_SPLITS.items():
        indices = [i for i, name in enumerate(classes.names) if split in PurePosixPath(name).parts[:-1]]
        if len(indices) != count:
            raise ImageDataError(f"{path}: {split} holds {len(indices)} classes; it must hold {count}")
        part = classes.select(np.array(indices))
        names = tuple(PurePosixPath(name).name for name in part.names)
        splits[split] = ImageClasses(names, part.images)
    return ImageSplits(splits["train"], splits["val"], splits["test"])


def read_classes(path: Path, decode: Callable[[bytes], np.ndarray]) -> ImageClasses:
    """Every image below ``path``, a folder or zip file, grouped by folder and in the order of names.

    Raises:
        ImageDataError: nothing there, or an image that cannot be decoded.
    """
    classes: dict[str, list[np.ndarray]] = {}
    for name, data in _files(path):
        if PurePosixPath(name).suffix.lower() not in (".png", ".jpg", ".jpeg"):
            continue
        try:
            image = decode(data)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ImageDataError(f"{path}: image {name}: {error}") from error
        classes.setdefault(str(PurePosixPath(name).parent), []).append(image)
    if not classes:
        raise ImageDataError(f"{path}: no images (.png, .jpg) in it")
    return ImageClasses(tuple(classes), tuple(np.stack(images) for images in classes.values()))


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names relative to ``path`` and contents, sorted by name."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    if not path.exists():
        raise ImageDataError(f"{path} does not exist; it must be a folder or a zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith("/"):
                    yield name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ImageDataError(f"{path} is not a zip file, or a damaged one ({error})") from error


def _folder_or_zip(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.zip"):
        if path.exists():
            return path
    raise ImageDataError(
        f"{folder} holds neither {name} nor {name}.zip; "
        "name another folder with --data, or fetch Omniglot with: supervised download omniglot"
    )


def _open(data: bytes, size: int, mode: str) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if image.size != (size, size):
        raise ImageDataError(f"it has {image.width}x{image.height} pixels; it must have {size}x{size}")
    if image.mode != mode:
        raise ImageDataError(f"its mode is {image.mode}; it must be {mode}")
    return image


def _omniglot_image(data: bytes) -> np.ndarray:
    """28x28x1: averaged down from 105x105 (antialiased), then inverted so that ink is 255."""
    grey = _open(data, 105, "1").convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    return 255 - np.asarray(grey)[..., None]


def _miniimagenet_image(data: bytes) -> np.ndarray:
    return np.asarray(_open(data, 84, "RGB"))
