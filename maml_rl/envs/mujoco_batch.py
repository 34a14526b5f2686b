"""K MuJoCo simulations of one model, advanced in one call and read as one matrix.

Two designs, each the faster one where it is used (measured by ``benchmarks/locomotion.py``):

- ``BatchSimulations`` loops in C through ``mujoco.batch``. It suits the half-cheetah, whose step is so short
  that one Python call per copy would cost a quarter of it.
- ``LoopSimulations`` loops in Python over one ``MjData`` per copy, with any sequence of MuJoCo calls. It
  suits the ant, which needs contact forces after the step and a Runge-Kutta step that goes on from the stages
  already computed; ``mujoco.batch`` would compute them twice.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.resources import files

import mujoco
import mujoco.batch
import numpy as np

Sensor = tuple[mujoco.mjtSensor, str]


def load_model(name: str, sensors: Sequence[Sensor] = ()) -> mujoco.MjModel:
    """Gymnasium's model file ``name`` with sensors added to bodies, given as ``(type, body name)``."""
    spec = mujoco.MjSpec.from_file(str(files("gymnasium.envs.mujoco") / "assets" / f"{name}.xml"))
    for sensor, body in sensors:
        spec.add_sensor(type=sensor, objtype=mujoco.mjtObj.mjOBJ_BODY, objname=body)
    with warnings.catch_warnings():
        # Gymnasium's half-cheetah sets its mass this way. The replacement MuJoCo advises gives other solver
        # tolerances (mean inertia), hence other trajectories.
        warnings.filterwarnings("ignore", "compiler attribute 'settotalmass'", UserWarning)
        return spec.compile()


class Simulations(ABC):
    """K copies of one model, each with a state of its own."""

    def __init__(self, model: mujoco.MjModel, num_envs: int) -> None:
        self.model = model
        self.num_envs = num_envs

    @abstractmethod
    def reset(self, copy: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Bring a copy to MuJoCo's initial state but with this ``qpos`` and ``qvel``."""

    @abstractmethod
    def step(self, actions: np.ndarray, active: np.ndarray) -> None:
        """Advance the copies marked in ``active`` under controls ``actions [num_envs, nu]``."""

    @abstractmethod
    def qpos(self, copy: int) -> np.ndarray:
        """The ``qpos`` of a copy."""

    @abstractmethod
    def read(self) -> np.ndarray:
        """What is read of each copy's state, then its counts of MuJoCo warnings since its reset.

        Returns:
            A new array ``[num_envs, columns + mjNWARNING]``.
        """


class BatchSimulations(Simulations):
    """Copies that ``mujoco.batch`` steps in C, on the caller's thread.

    Args:
        frame_skip: calls of ``mj_step`` per step.
        stage: what is computed anew at the state after the step. With ``mjSTAGE_VEL`` the next step goes on
            from there, which makes post-step observations almost free under the Euler integrator.
        columns: arrays ``[num_envs, n]``, views of the batch, that ``read`` joins.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        *,
        frame_skip: int,
        stage: mujoco.mjtStage,
        columns: Callable[[mujoco.batch.Batch], list[np.ndarray]],
    ) -> None:
        super().__init__(model, num_envs)
        self._batch = mujoco.batch.Batch(model, num_envs, nthread=1, persistent=True)
        self._frame_skip = frame_skip
        self._stage = int(stage)
        self._ctrl = self._batch.bind("ctrl")
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._columns = [*columns(self._batch), self._batch.warning[:, :, 1]]

    def reset(self, copy: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        self._batch.reset([copy], stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[copy], self._qvel[copy] = qpos, qvel
        self._batch.forward([copy])

    def step(self, actions: np.ndarray, active: np.ndarray) -> None:
        self._ctrl[:] = actions
        everyone = np.count_nonzero(active) == self.num_envs
        self._batch.step(None if everyone else active, self._frame_skip, self._stage)

    def qpos(self, copy: int) -> np.ndarray:
        return self._qpos[copy]

    def read(self) -> np.ndarray:
        return np.concatenate(self._columns, axis=1)


class LoopSimulations(Simulations):
    """Copies stepped one after the other by a sequence of MuJoCo calls.

    Args:
        start: computes what ``views`` show from a new ``qpos`` and ``qvel``, with ``mj_forward`` at least.
        advance: moves one copy by one step.
        views: one-dimensional arrays, views of a copy's data, that ``read`` joins into the copy's row.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        *,
        start: Callable[[mujoco.MjModel, mujoco.MjData], None],
        advance: Callable[[mujoco.MjModel, mujoco.MjData], None],
        views: Callable[[mujoco.MjData], list[np.ndarray]],
    ) -> None:
        super().__init__(model, num_envs)
        self._start, self._advance = start, advance
        self._data = [mujoco.MjData(model) for _ in range(num_envs)]
        self._ctrl = [data.ctrl for data in self._data]
        self._views = [view for data in self._data for view in (*views(data), data.warning.number)]

    def reset(self, copy: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        data = self._data[copy]
        mujoco.mj_resetData(self.model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        self._start(self.model, data)

    def step(self, actions: np.ndarray, active: np.ndarray) -> None:
        model, advance = self.model, self._advance
        for data, ctrl, action, moves in zip(self._data, self._ctrl, actions, active.tolist(), strict=True):
            if moves:
                ctrl[:] = action
                advance(model, data)

    def qpos(self, copy: int) -> np.ndarray:
        return self._data[copy].qpos

    def read(self) -> np.ndarray:
        return np.concatenate(self._views).reshape(self.num_envs, -1)
