"""Films of small runs, and the files read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from maml_rl.envs.offscreen import RenderingError, choose_backend

SIZE = (96, 80)


def _rendering_problem() -> str | None:
    try:
        choose_backend()
    except RenderingError as error:
        return str(error)
    return None


PROBLEM = _rendering_problem()


needs_opengl = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def read_mp4(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Description and frames ``[frames, height, width, 3]``."""
    reader = imageio_ffmpeg.read_frames(str(path))
    description = next(reader)
    width, height = description["size"]
    return description, np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader])
