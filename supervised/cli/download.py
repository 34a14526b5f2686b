"""``supervised download``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def download(
    dataset: Positional[Literal["omniglot"]],
    folder: Positional[Path],
) -> None:
    """Fetch Omniglot (14 MB, MIT licence) from its authors' archive and check it.

    Args:
        dataset: omniglot; MiniImagenet's terms do not allow a download by program: see docs/guide/supervised.md.
        folder: where to put the archives; name it afterwards with --data.
    """
    from rich.console import Console

    from maml_rl.tools.progress import counting_display
    from supervised.data.download import fetch_omniglot

    with counting_display(Console(stderr=True)) as show:
        fetch_omniglot(folder, print, on_progress=lambda name, done, total: show(f"{name}, KiB", done, total))
