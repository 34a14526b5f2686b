"""Fetch Omniglot from its authors' archive, with checksums; never a half file in place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

OMNIGLOT_SHA256 = {
    "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
}
OMNIGLOT_SOURCE = "https://github.com/brendenlake/omniglot/raw/master/python/"

_BLOCK = 2**16


class DownloadError(ValueError):
    """A file could not be fetched, or is not the one that was expected."""


def fetch_omniglot(
    folder: Path,
    say: Callable[[str], None],
    source: str = OMNIGLOT_SOURCE,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> None:
    """Both archives into ``folder``; those that are there with the right checksum stay.

    Args:
        say: called with what was done.
        on_progress: called with a file, the KiB that are there, and all of them where the server tells.

    Raises:
        DownloadError: see ``fetch``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, checksum in OMNIGLOT_SHA256.items():
        say(fetch(source + name, folder / name, checksum, partial(on_progress, name)))


def fetch(
    url: str, path: Path, sha256: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Download to a temporary file, check it, then move it into place; an interrupted download starts over.

    Returns:
        What was done, for the user.

    Raises:
        DownloadError: no connection, or a checksum that does not match: nothing is put into place.
    """
    if path.exists():
        if _sha256(path) == sha256:
            return f"{path}: already there"
        raise DownloadError(f"{path}: is there with another checksum; move it away to download it again")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with urlopen(url, timeout=60) as response, temporary.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(_BLOCK):
                file.write(block)
                on_progress(file.tell() // 1024, max(total, file.tell()) // 1024)
        found = _sha256(temporary)
        if found != sha256:
            raise DownloadError(f"{url}: sha256 is {found}; it must be {sha256}. Try again later")
        temporary.replace(path)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"{url}: cannot be fetched ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return f"{path}: fetched"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
