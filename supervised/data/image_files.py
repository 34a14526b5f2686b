"""Folders and zip files of images, decoded once into bytes in memory; nothing is unpacked on disk."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps

from maml_rl.tools.memory_size import in_words, total_memory

logger = logging.getLogger(__name__)

LARGEST_FILE = 2**28
"""Bytes of one image file. A larger one in a zip file is a mistake, or an attack on the memory."""
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow only knows by name, or has other programs decode."""

Mode = Literal["L", "RGB"]


class ImageDataError(ValueError):
    """Images are missing, corrupt, or not of the form that they must have."""


def read_images(path: Path, size: int, mode: Mode) -> dict[str, np.ndarray]:
    """Every image below ``path``, a folder or zip file, by the folder it lies in and in the order of names.

    Hidden files and folders, those that programs leave behind (``__MACOSX``, ``.ipynb_checkpoints``) and files that
    are no images by their names are skipped, with a warning that counts them.

    Args:
        size, mode: of the result; see ``decode``.

    Returns:
        By folder, relative to ``path``: ``uint8 [count, size, size, channels]``.

    Raises:
        ImageDataError: nothing there, or an image that cannot be decoded.
    """
    classes: dict[str, list[np.ndarray]] = {}
    with _opened(path) as (names, read):
        images = [name for name in names if _is_image(name)]
        _report_skipped(path, [name for name in names if not _is_image(name)])
        if not images:
            raise ImageDataError(f"{path}: no images in it")
        needed, there = len(images) * size**2 * len(mode), total_memory()
        if needed > there:
            raise ImageDataError(
                f"{path}: its {len(images)} images of {size} x {size} pixels need {in_words(needed)} of memory, "
                f"and there are {in_words(there)}"
            )
        for name in images:
            folder = str(PurePosixPath(name).parent)
            if folder == ".":
                raise ImageDataError(
                    f"{path}: image {name} lies in no folder; every class has one of its own"
                )
            classes.setdefault(folder, []).append(_decoded(path, name, read, size, mode))
    return {name: np.stack(found) for name, found in classes.items()}


def decode(data: bytes, size: int, mode: Mode) -> np.ndarray:
    """An image of any mode and size that Pillow reads, as ``uint8 [size, size, channels]``.

    It is turned upright where its camera says so; of an animation the first picture counts. Integers of 16 bits are
    divided by 257, those of 32 bits and floats run from their least to their largest value. What is transparent
    lies on white. The shorter side becomes ``size`` (antialiased), and of the longer one the middle is kept.

    Raises:
        ImageDataError, or an error of Pillow's: it is no image, or a damaged one.
    """
    if len(data) > LARGEST_FILE:
        raise ImageDataError(f"it has {in_words(len(data))}; it must have at most {in_words(LARGEST_FILE)}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image: Image.Image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = _opaque(_of_eight_bits(image)).convert(mode)
    if image.width == image.height != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    elif image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, len(mode))


def _of_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return _known(ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, np.float64))
        spread = values.max() - values.min()
        return Image.fromarray(np.uint8(255 * (values - values.min()) / (spread or 1)))
    return image


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image)


def _known(image: Image.Image | None) -> Image.Image:
    assert image is not None, "only a conversion in place returns nothing"
    return image


def _decoded(path: Path, name: str, read: Callable[[str], bytes], size: int, mode: Mode) -> np.ndarray:
    try:
        return decode(read(name), size, mode)
    # What Pillow's decoders raise for damaged files, and too large pictures.
    except (
        *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
        *(MemoryError, ArithmeticError, zlib.error, Image.DecompressionBombError),
        Image.DecompressionBombWarning,
    ) as error:
        raise ImageDataError(f"{path}: image {name}: {error or type(error).__name__}") from error


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if any(part.startswith((".", "__")) for part in parts):
        return False
    image_format = Image.registered_extensions().get(PurePosixPath(name).suffix.lower())
    return image_format in Image.OPEN and image_format not in _NOT_DECODED


def _report_skipped(path: Path, skipped: Sequence[str]) -> None:
    if skipped:
        logger.warning(
            "%s: skipped %d file(s) that are no images, such as %s", path, len(skipped), skipped[0]
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Names of the files relative to ``path``, sorted, and what reads one of them."""
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        yield names, lambda name: (path / name).read_bytes()
        return
    if not path.exists():
        raise ImageDataError(f"{path} does not exist; it must be a folder or a zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}

            def read(name: str) -> bytes:
                if sizes[name] > LARGEST_FILE:
                    raise ImageDataError(f"it has {in_words(sizes[name])} when unpacked")
                return archive.read(name)

            yield sorted(sizes), read
    # Of the last two classes: an encrypted file, and a way of compression that is not known.
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ImageDataError(
            f"{path} is not a zip file that can be read, or a damaged one ({error})"
        ) from error
