"""Pictures of MuJoCo simulations without a display, through EGL or OSMesa, whichever works here."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

CANDIDATES = {"linux": ("egl", "osmesa"), "darwin": ("cgl",)}.get(sys.platform, ("glfw",))
"""OpenGL backends of MuJoCo that need no display, the preferred one first: EGL can use a GPU."""

ALLOWED: tuple[str, ...] = tuple(dict.fromkeys((*CANDIDATES, "glfw")))
INSTALL = (
    "install EGL (Debian, Ubuntu: apt-get install libegl1 libgl1; Fedora: dnf install mesa-libEGL "
    "libglvnd-opengl) or OSMesa (Debian, Ubuntu: libosmesa6; Fedora: mesa-libOSMesa)"
)

# It makes contexts instead of only loading the library: a library without a driver fails only here.
_PROBE = """
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""


class RenderingError(ValueError):
    """No pictures can be taken on this machine as it is."""


def wanted_backend() -> str | None:
    """What ``MUJOCO_GL`` says; RenderingError when MuJoCo has no such backend for this system."""
    wanted = os.environ.get("MUJOCO_GL") or None
    if wanted not in (None, *ALLOWED):
        raise RenderingError(f"MUJOCO_GL is {wanted!r}; allowed: {', '.join(ALLOWED)}, or unset")
    return wanted


@cache
def choose_backend() -> str:
    """The OpenGL backend to render with: what ``MUJOCO_GL`` says, else the first candidate that works.

    ``MUJOCO_GL`` is set to the choice, for other users of MuJoCo in this process. Every backend is tried in a
    process of its own: one that fails may abort, or leave settings behind that keep others from loading.

    Raises:
        RenderingError: none works, or ``MUJOCO_GL`` is unknown; the message names what to install or to set.
    """
    wanted = wanted_backend()
    failures = []
    for backend in (wanted,) if wanted else CANDIDATES:
        failure = _failure(backend)
        if failure is None:
            os.environ["MUJOCO_GL"] = backend
            return backend
        failures.append(f"{backend}: {failure}")
    raise RenderingError(f"MuJoCo cannot render offscreen ({'; '.join(failures)}); {INSTALL}")


def _failure(backend: str) -> str | None:
    """Why a backend does not work, or None."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return "no answer within 120 s"
    lines = result.stderr.strip().splitlines()
    if result.returncode == 0:
        return None
    return lines[-1] if lines else f"exit status {result.returncode}"


class TrackingCamera:
    """Takes pictures of a model's poses from the side, moving along with a body.

    The height of the view is fixed and the squares of the ground measure 1 m, so that the speed can be seen.

    Args:
        model: kept as it is: looks are changed in a copy.
        body: the body that stays in the middle.
        size: width and height of the pictures in pixels.
        distance: of the camera from the body, in m.

    Raises:
        RenderingError: see ``choose_backend``.
    """

    def __init__(self, model: mujoco.MjModel, body: str, size: tuple[int, int], *, distance: float) -> None:
        backend = choose_backend()
        import mujoco

        self._mujoco = mujoco
        self._model = _looks(model, size)
        self._data = mujoco.MjData(self._model)
        self._body = model.body(body).id
        self._scene = mujoco.MjvScene(self._model, maxgeom=200)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False  # drawn in software they take nine tenths of the time
        self._camera = mujoco.MjvCamera()
        self._camera.azimuth, self._camera.elevation, self._camera.distance = 90, -15, distance
        self._camera.lookat[2] = 0.4  # m, about where the torsos are
        self._options, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._rectangle = mujoco.MjrRect(0, 0, *size)
        # From the backend's own module: mujoco.GLContext is that of the MUJOCO_GL at its import.
        self._gl = import_module(f"mujoco.{backend}").GLContext(*size)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def __call__(self, qpos: np.ndarray) -> np.ndarray:
        """A picture ``[height, width, 3]`` (uint8) of the pose ``qpos``, or of the last finite one."""
        mujoco = self._mujoco
        if np.isfinite(qpos).all():
            self._data.qpos[:] = qpos
        mujoco.mj_forward(self._model, self._data)
        self._camera.lookat[:2] = self._data.xpos[self._body, :2]
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, self._perturbation, self._camera, everything, self._scene
        )
        self._gl.make_current()
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        pixels = np.empty((self._rectangle.height, self._rectangle.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rectangle, self._context)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the contexts, the drawing one while its OpenGL context still lives."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _looks(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.MjModel:
    """A copy of the model with a buffer for pictures of ``size``, cheap to draw, on a ground of 1 m squares."""
    model = copy.copy(model)
    model.vis.global_.offwidth, model.vis.global_.offheight = size
    model.vis.quality.offsamples = 0  # multisampling costs several times the picture
    model.mat_reflectance[:] = 0
    floor = model.geom("floor")
    # One repetition of the chequered texture is two squares; the ground extends size metres both ways.
    model.mat_texrepeat[floor.matid[0]] = floor.size[:2]
    return model
