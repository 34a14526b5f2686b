"""Meta-World's own simulations without most of their Python overhead: the same numbers to the last bit.

What costs time in ``metaworld`` 3.0 is not its physics but what surrounds it: lists over all contacts, lookups by
name, general array functions on three numbers, rotations by way of SciPy. Here are the functions
that all 50 families share. Families keep their own: their goals, objects and rewards are the package's code.
"""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils

_tolerance = reward_utils.tolerance
_DOWN = (1.0, 0.0, 1.0, 0.0)
"""Orientation of the mocap body: the gripper points downwards."""
_XZ = [0, 2]


def tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """``reward_utils.tolerance`` (of dm_control) for a number and the sigmoid that most families use."""
    lower, upper = bounds
    usual = isinstance(x, float) and sigmoid == "long_tail" and lower <= upper and margin > 0
    if not usual or not 0 < value_at_margin < 1:
        return _tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    distance = float((lower - x if x < lower else x - upper) / margin)
    return float(1 / ((distance * math.sqrt(1 / value_at_margin - 1)) ** 2 + 1))


class Quaternion:
    """As much of SciPy's ``Rotation`` as families use: the quaternion, scalar last, of one rotation matrix."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Quaternion:
        """Markley 2008, the best conditioned of four formulas, as SciPy has it; ``matrix`` must be a rotation."""
        m = matrix.tolist()
        trace = m[0][0] + m[1][1] + m[2][2]
        best = max(m[0][0], m[1][1], m[2][2], trace)
        quaternion = [0.0] * 4
        for i in range(3):
            if m[i][i] == best:
                j, k = (i + 1) % 3, (i + 2) % 3
                quaternion[i] = 1 - trace + 2 * m[i][i]
                quaternion[j] = m[j][i] + m[i][j]
                quaternion[k] = m[k][i] + m[i][k]
                quaternion[3] = m[k][j] - m[j][k]
                break
        else:
            quaternion = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1 + trace]
        square = 0.0
        for (
            number
        ) in quaternion:  # one after the other, as SciPy: the order of numpy's dot depends on the processor
            square += number * number
        return cls(np.array(quaternion) / math.sqrt(square))

    def as_quat(self) -> np.ndarray:
        return self._numbers


def norm(x: Any, *args: Any, **kwargs: Any) -> Any:
    """``numpy.linalg.norm``, of vectors as numpy computes it but without what goes before."""
    if args or kwargs or type(x) is not np.ndarray or x.ndim != 1 or x.dtype != np.float64:
        return np.linalg.norm(x, *args, **kwargs)
    return np.float64(math.sqrt(x.dot(x)))


def clip(x: Any, low: Any, high: Any, *args: Any, **kwargs: Any) -> Any:
    """``numpy.clip``, of a single number without what is for arrays."""
    if args or kwargs or not (isinstance(x, float) and isinstance(low, float) and isinstance(high, float)):
        return np.clip(x, low, high, *args, **kwargs)
    return np.float64(x if low <= x <= high else low if x < low else high if x > high else x)


NUMPY = SimpleNamespace(
    **{**vars(np), "linalg": SimpleNamespace(**{**vars(np.linalg), "norm": norm}), "clip": clip}
)
"""Numpy as families see it."""


class _Views:
    """Arrays and rows of a simulation that every step looks at: each lookup by name costs microseconds."""

    def __init__(self, model: Any, data: Any) -> None:
        self.xpos, self.sites, self.ctrl = data.xpos, data.site_xpos, data.ctrl
        self.mocap_pos, self.mocap_quat = data.mocap_pos, data.mocap_quat
        self.bodies = {model.body(i).name: i for i in range(model.nbody)}
        self.site_rows = {model.site(i).name: i for i in range(model.nsite)}
        self.hand, self.right_claw, self.left_claw, self.left_pad, self.right_pad = (
            self.xpos[self.bodies[name]] for name in ("hand", "rightclaw", "leftclaw", "leftpad", "rightpad")
        )
        self.right_tip, self.left_tip = (
            self.sites[self.site_rows[name]] for name in ("rightEndEffector", "leftEndEffector")
        )
        self.pads = [model.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]


class _Shared(SawyerXYZEnv):
    """What families share. Only what a family does not have itself is taken from here."""

    @property
    def _views(self) -> _Views:
        found: _Views | None = self.__dict__.get("_made_views")
        if found is None:
            found = self.__dict__["_made_views"] = _Views(self.model, self.data)
        return found

    def get_body_com(self, body_name: str) -> np.ndarray:
        views = self._views
        com: np.ndarray = views.xpos[views.bodies[body_name]]
        return com

    def get_endeff_pos(self) -> np.ndarray:
        hand: np.ndarray = self._views.hand
        return hand

    @property
    def tcp_center(self) -> np.ndarray:
        views = self._views
        center: np.ndarray = (views.right_tip + views.left_tip) / 2.0
        return center

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        views = self._views
        position: np.ndarray = views.sites[views.site_rows[site_name]].copy()
        return position

    def touching_object(self, object_geom_id: int) -> bool:
        pads = self._views.pads
        forces = [0.0, 0.0]
        contacts = self.data.contact
        for (first, second), address in zip(
            contacts.geom.tolist(), contacts.efc_address.tolist(), strict=True
        ):
            if object_geom_id in (first, second):
                for i, pad in enumerate(pads):
                    if pad in (first, second):
                        forces[i] += float(self.data.efc_force[address])
        return min(forces) > 0

    def set_xyz_action(self, action: np.ndarray) -> None:
        delta = np.minimum(np.maximum(action, -1), 1) * self.action_scale
        views = self._views
        views.mocap_pos[:] = np.minimum(
            np.maximum(views.mocap_pos[0] + delta, self.mocap_low), self.mocap_high
        )
        views.mocap_quat[:] = _DOWN

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        # Forces between bodies, which Gymnasium computes here after every step, no family looks at.
        self._views.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        views = self._views
        observation = np.zeros(4 + self._obs_obj_max_len)
        observation[:3] = views.hand
        apart = norm(views.right_claw - views.left_claw) / 0.1
        observation[3] = min(max(apart, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        objects = len(positions) // 3
        if objects * 3 != len(positions) or objects * 4 != len(quaternions):
            return SawyerXYZEnv._get_curr_obs_combined_no_goal(self)
        for i in range(objects):
            start = 4 + 7 * i
            observation[start : start + 3] = positions[3 * i : 3 * i + 3]
            observation[start + 3 : start + 7] = quaternions[4 * i : 4 * i + 4]
        return observation

    def _get_obs(self) -> np.ndarray:
        goal = self._get_pos_goal()
        now = self._get_curr_obs_combined_no_goal()
        before: np.ndarray = self._prev_obs  # type: ignore[has-type]  # set by the package
        observation = np.zeros(len(now) + len(before) + len(goal))
        observation[: len(now)] = now
        observation[len(now) : len(now) + len(before)] = before
        if not self._partially_observable:
            observation[-len(goal) :] = goal
        self._prev_obs = now
        return observation

    def step(self, action: np.ndarray) -> Any:
        self.advance(action)
        observation, reward, info = self.look(action)
        truncated = self.curr_path_length == self.max_path_length
        return observation.copy(), reward, False, truncated, info

    def advance(self, action: np.ndarray) -> None:
        """The physics of one step."""
        if not self._set_task_called or len(action) != 4 or self.curr_path_length >= self.max_path_length:
            SawyerXYZEnv.step(self, action)  # says what is wrong
        self.set_xyz_action(action[:3])
        self.do_simulation([action[-1], -action[-1]], self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, self.data)

    def look(self, action: np.ndarray) -> tuple[np.ndarray, float, dict[str, Any]]:
        """Observation, reward and info after ``advance``."""
        space = self.sawyer_observation_space
        self._last_stable_obs = np.minimum(np.maximum(self._get_obs(), space.low), space.high)
        reward, info = self.evaluate_state(self._last_stable_obs, action)
        return self._last_stable_obs, reward, info

    def _gripper_caging_reward(
        self,
        action: np.ndarray,
        obj_pos: np.ndarray,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        """The package's reward for grasping an object; what its terms are for, is explained there."""
        start, hamacher = self.obj_init_pos, reward_utils.hamacher_product
        if start is None or (high_density and medium_density):
            return SawyerXYZEnv._gripper_caging_reward(
                self,
                action,
                obj_pos,
                obj_radius,
                pad_success_thresh,
                object_reach_radius,
                xz_thresh,
                desired_gripper_effort,
                high_density,
                medium_density,
            )
        sides = []
        for pad in (self._views.left_pad, self._views.right_pad):
            y = float(pad[1])
            margin = abs(abs(y - float(start[1])) - pad_success_thresh)
            bounds = (obj_radius, pad_success_thresh)
            sides.append(tolerance(abs(y - float(obj_pos[1])), bounds, margin, "long_tail"))
        tcp = self.tcp_center
        margin = norm(start[_XZ] - self.init_tcp[_XZ]) - xz_thresh
        below = tolerance(norm(tcp[_XZ] - obj_pos[_XZ]), (0, xz_thresh), margin, "long_tail")
        caging = hamacher(hamacher(*sides), float(below))
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward = hamacher(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            margin = abs(norm(start - self.init_tcp) - object_reach_radius)
            reach = tolerance(norm(obj_pos - tcp), (0, object_reach_radius), margin, "long_tail")
            reward = (reward + float(reach)) / 2
        return reward


_SHARED = {
    name: function
    for name, function in vars(_Shared).items()
    if callable(function) or isinstance(function, property)
}
_BASES = set(SawyerXYZEnv.__mro__)
_PLACED = ("body_pos", "body_quat", "site_pos", "site_quat", "geom_pos", "geom_quat", "qpos0", "eq_data")
"""What families move of a model."""
_SEEN = ("xpos", "xquat", "site_xpos", "geom_xpos", "qpos", "qvel", "mocap_pos", "mocap_quat")
"""What attributes of families may be views of."""


def faster(family: type[SawyerXYZEnv]) -> type[SawyerXYZEnv]:
    """A family with the functions above in place of those that it has from the package's base classes.

    The functions that it calls are replaced in its module, which changes no result either.
    """
    own = [cls for cls in family.__mro__ if cls not in _BASES]
    inherited = {
        name: function for name, function in _SHARED.items() if not any(name in vars(cls) for cls in own)
    }
    for cls in own:
        for name, replacement in (("Rotation", Quaternion), ("np", NUMPY)):
            if hasattr(sys.modules[cls.__module__], name):
                setattr(sys.modules[cls.__module__], name, replacement)
    reward_utils.tolerance = tolerance
    return type(family.__name__, (family,), inherited)


def another(source: Any) -> Any:
    """Another simulation with the model of ``source``, which takes 1 ms where a new one takes 40."""
    copy = object.__new__(type(source))
    vars(copy).update(vars(source))
    vars(copy).pop("_made_views", None)
    copy.data = mujoco.MjData(source.model)
    copy_state(source, copy)
    return copy


def copy_state(source: Any, target: Any) -> None:
    """Bring another simulation of the same family to where ``source`` is; a reset costs as much as 100 steps."""
    if target.model is not source.model:
        for name in _PLACED:
            getattr(target.model, name)[:] = getattr(source.model, name)
    mujoco.mj_copyData(target.data, source.model, source.data)
    for name, value in vars(source).items():
        if isinstance(value, np.ndarray):
            vars(target)[name] = _same_view(value, source.data, target.data)
        elif value is None or isinstance(value, bool | int | float | np.generic):
            vars(target)[name] = value


def _same_view(array: np.ndarray, data: Any, other: Any) -> np.ndarray:
    """A copy, or the same part of ``other`` if it is a part of ``data``, which changes with every step."""
    for name in _SEEN if array.base is not None else ():
        whole = getattr(data, name)
        start = (array.ctypes.data - whole.ctypes.data) // whole.itemsize
        if array.flags.c_contiguous and start >= 0 and start + array.size <= whole.size:
            part: np.ndarray = getattr(other, name).reshape(-1)[start : start + array.size]
            return part.reshape(array.shape)
    return array.copy()
