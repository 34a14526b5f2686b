"""Half-cheetah and ant with a goal velocity or a goal direction (Finn et al. 2017, sec. 5.3).

Each family has two variants:

- ``paper``: physics, observation, reset, reward and termination of the published experiments, rebuilt on the
  model files that Gymnasium ships. The velocity v is that of the robot's centre of mass. Everything in
  observation and reward describes the state after the step.
- ``gymnasium``: dynamics, observation and reset of Gymnasium's ``HalfCheetah-v5`` and ``Ant-v5``, equal bit
  for bit, with the task's reward. As there, v is the torso's displacement divided by the time of the step,
  and the ant's contact forces are those of the last integrator stage.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import mujoco
import numpy as np

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.mujoco_batch import BatchSimulations, LoopSimulations, Simulations, load_model
from maml_rl.envs.offscreen import TrackingCamera

Variant = Literal["paper", "gymnasium"]

_FRAME_SKIP = 5  # of Gymnasium's v5 environments; the published ones have 1

# Their readings: the three coordinates of the robot's centre of mass, then its velocity along x, y and z.
_CENTRE_OF_MASS = (
    (mujoco.mjtSensor.mjSENS_SUBTREECOM, "torso"),
    (mujoco.mjtSensor.mjSENS_SUBTREELINVEL, "torso"),
)
_STAGE_VEL = int(mujoco.mjtStage.mjSTAGE_VEL)


class Locomotion(TaskVectorEnv):
    """A simulated robot rewarded for the x velocity v that the task asks for.

    Action: one motor command per joint in [-1, 1]. Observation: float64, see
    the robots below. An episode whose simulation diverges (a value that is not finite or above 1e10, or any
    MuJoCo warning) terminates with its last good observation and reward 0, and is
    counted in ``diverged_episodes``.

    Args:
        variant: ``paper`` or ``gymnasium``, see the module.
        max_episode_steps: horizon H (Finn et al. 2017, sec. 5.3: 200).
        kwargs: see ``TaskVectorEnv``.

    Raises:
        ValueError: unknown variant.
    """

    max_goal: ClassVar[float]
    observation_sizes: ClassVar[dict[str, int]]
    action_size: ClassVar[int]
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]
    camera_distance: ClassVar[float]
    """In m, for ``render``."""
    _camera: TrackingCamera | None = None

    def __init__(
        self,
        num_envs: int = 1,
        *,
        variant: Variant = "paper",
        max_episode_steps: int = 200,
        **kwargs: Any,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant is {variant!r}; allowed: {', '.join(get_args(Variant))}")
        self._paper = variant == "paper"
        self._size = self.observation_sizes[variant]
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (self._size,), np.float64),
            action_space=gymnasium.spaces.Box(-1, 1, (self.action_size,), np.float32),
            task_space=gymnasium.spaces.Box(0, self.max_goal, (), np.float64),
            **kwargs,
        )
        self._goal = 0.0
        self._direction = 1.0
        self._simulations = self._build()
        self._dt = self._simulations.model.opt.timestep * (1 if self._paper else _FRAME_SKIP)
        self.metadata["render_fps"] = round(1 / self._dt)
        # A row is the observation, the forward progress (v or x), and the counts of MuJoCo warnings.
        self._rows = self._simulations.read()

    # --- what a robot and a goal define

    @abstractmethod
    def _build(self) -> Simulations:
        """The simulations; after the observation they give v (``paper``) or the torso's x (``gymnasium``)."""

    def _rest_pose(self) -> np.ndarray:
        """The ``qpos`` around which episodes start."""
        return self._simulations.model.qpos0

    @abstractmethod
    def _goal_reward(self, velocities: np.ndarray) -> np.ndarray:
        """The task's part of the reward, ``[num_envs]``, for velocities in m/s."""

    @abstractmethod
    def _penalize(self, rewards: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Rewards less the robot's costs."""

    @abstractmethod
    def _fallen(self) -> np.ndarray:
        """Which copies' episodes end here, ``[num_envs]``."""

    # --- the task family

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Goals ``[n]``, uniform from 0 to ``max_goal``."""
        return rng.uniform(0, self.max_goal, n)

    def _set_task(self, task: np.ndarray) -> None:
        self._goal = float(task)

    def describe_task(self) -> str:
        """The goal velocity."""
        return f"run at {self._goal:.2f} m/s"

    def _reset(self, mask: np.ndarray) -> None:
        for k in np.flatnonzero(mask):
            self._simulations.reset(int(k), *self._initial_state(self._generators[k]))
        self._rows = self._read(mask)

    def _initial_state(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``qpos`` and ``qvel`` of a new episode."""
        model = self._simulations.model
        noise = 0.01 * rng.standard_normal(model.nq) if self._paper else rng.uniform(-0.1, 0.1, model.nq)
        return self._rest_pose() + noise, 0.1 * rng.standard_normal(model.nv)

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        actions = np.asarray(actions, np.float64)
        self._simulations.step(actions, active)
        before, self._rows = self._rows, self._read(active)
        diverged = self._restore_diverged(before)
        progress = self._rows[:, self._size]
        velocities = progress if self._paper else (progress - before[:, self._size]) / self._dt
        rewards = self._penalize(self._goal_reward(velocities), actions)
        terminated = self._fallen()
        if diverged is not None:
            rewards[diverged] = 0
            terminated |= diverged
        return rewards, terminated

    def _observe(self) -> np.ndarray:
        return self._rows[:, : self._size]

    def _render(self, copy: int) -> np.ndarray:
        if self._camera is None:
            model = self._simulations.model
            self._camera = TrackingCamera(model, "torso", self.render_size, distance=self.camera_distance)
        return self._camera(self._simulations.qpos(copy))

    def close_extras(self, **kwargs: Any) -> None:
        """Free what rendering needed."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _read(self, changed: np.ndarray) -> np.ndarray:
        """Rows of the present state, as a new array; copies not marked in ``changed`` keep their row."""
        rows = self._simulations.read()
        if np.count_nonzero(changed) < self.num_envs:
            rows[~changed] = self._rows[~changed]
        return rows

    def _restore_diverged(self, before: np.ndarray) -> np.ndarray | None:
        """Put the rows ``before`` the step in place of diverged ones; the mask of these, or None.

        The bound is MuJoCo's own (``mjMAXVAL``). It is tested beside the warnings because some variants leave
        a new state unchecked until the next step.
        """
        rows = self._rows
        warnings = rows[:, self._size + 1 :]
        # The sum of squares is NaN or large if any entry is; it takes a third of the time of a maximum.
        if np.vdot(rows, rows) < mujoco.mjMAXVAL and not np.count_nonzero(warnings):
            return None
        diverged = ~(np.abs(rows) < mujoco.mjMAXVAL).all(axis=1) | warnings.any(axis=1)
        rows[diverged] = before[diverged]
        self.diverged_episodes += int(diverged.sum())
        return diverged if diverged.any() else None


class HalfCheetah(Locomotion):
    """The planar half-cheetah; its episodes never end early.

    ``paper``: time step 0.01 s; observation (20): joint positions without x (8), joint velocities (9), centre
    of mass (3). ``gymnasium``: time step 0.05 s; observation (17): the first two. Reward: the task's, less
    0.05 times the sum of squared actions.
    """

    max_goal = 2.0
    camera_distance = 3.5
    observation_sizes: ClassVar = {"paper": 20, "gymnasium": 17}
    action_size = 6

    def _build(self) -> Simulations:
        if not self._paper:
            return BatchSimulations(
                load_model("half_cheetah"),
                self.num_envs,
                frame_skip=_FRAME_SKIP,
                stage=mujoco.mjtStage.mjSTAGE_NONE,
                columns=lambda b: [b.bind("qpos")[:, 1:], b.bind("qvel"), b.bind("qpos")[:, :1]],
            )
        return BatchSimulations(
            load_model("half_cheetah", _CENTRE_OF_MASS),
            self.num_envs,
            frame_skip=1,
            stage=mujoco.mjtStage.mjSTAGE_VEL,
            columns=lambda b: [b.bind("qpos")[:, 1:], b.bind("qvel"), b.bind("sensordata")[:, :4]],
        )

    def _penalize(self, rewards: np.ndarray, actions: np.ndarray) -> np.ndarray:
        rewards -= 0.05 * np.vecdot(actions, actions)
        return rewards

    def _fallen(self) -> np.ndarray:
        return np.zeros(self.num_envs, bool)


class Ant(Locomotion):
    """The four-legged ant; an episode ends when the torso's height leaves [0.2, 1] m.

    ``paper``: time step 0.02 s; observation (125): joint positions (15), joint velocities (14), contact
    forces clipped to [-1, 1] (84), torso rotation matrix (9), centre of mass (3). ``gymnasium``: time step
    0.05 s; observation (105): joint positions without x and y (13), joint velocities (14), clipped contact
    forces without the world's (78). Reward: the task's, plus 0.05, less 0.005 times the sum of squared
    actions and 0.0005 times the sum of squared clipped contact forces.
    """

    max_goal = 3.0
    camera_distance = 4.5
    observation_sizes: ClassVar = {"paper": 125, "gymnasium": 105}
    action_size = 8

    def _build(self) -> Simulations:
        model = load_model("ant", _CENTRE_OF_MASS if self._paper else ())
        torso = model.body("torso").id
        if not self._paper:
            self._forces, self._height = slice(27, 105), 0
            return LoopSimulations(
                model,
                self.num_envs,
                start=mujoco.mj_forward,
                advance=_step_ant_gymnasium,
                views=lambda d: [d.qpos[2:], d.qvel, d.cfrc_ext[1:].reshape(-1), d.xpos[torso, :1]],
            )
        # The published model, expressed as changes to Gymnasium's. Its gear and control range differ too, but
        # their product does not: an action in [-1, 1] gives the same torque.
        model.opt.timestep = 0.02
        model.geom_solimp[:, :3] = (0.8, 0.8, 0.01)
        self._forces, self._height = slice(29, 113), 2
        return LoopSimulations(
            model,
            self.num_envs,
            start=_start_ant_paper,
            advance=_step_ant_paper,
            views=lambda d: [
                d.qpos,
                d.qvel,
                d.cfrc_ext.reshape(-1),
                d.xmat[torso],
                d.sensordata[:4],
            ],
        )

    def _rest_pose(self) -> np.ndarray:
        return self._simulations.model.numeric("init_qpos").data if self._paper else super()._rest_pose()

    def _read(self, changed: np.ndarray) -> np.ndarray:
        rows = super()._read(changed)
        forces = rows[:, self._forces]
        forces.clip(-1, 1, out=forces)
        return rows

    def _penalize(self, rewards: np.ndarray, actions: np.ndarray) -> np.ndarray:
        rewards += 0.05
        rewards -= 0.005 * np.vecdot(actions, actions)
        forces = self._rows[:, self._forces]
        rewards -= 0.0005 * np.vecdot(forces, forces)
        return rewards

    def _fallen(self) -> np.ndarray:
        heights = self._rows[:, self._height]
        return (heights < 0.2) | (heights > 1)


class GoalDirection(Locomotion):
    """Reward v in the task's direction: backward for the lower half of the published task range."""

    def task_features(self, task: Any) -> np.ndarray:
        """The direction, -1 or 1."""
        return np.array([-1.0 if float(task) < self.max_goal / 2 else 1.0])

    def _set_task(self, task: np.ndarray) -> None:
        (self._direction,) = self.task_features(task)

    def describe_task(self) -> str:
        """The direction."""
        return "run forward" if self._direction > 0 else "run backward"

    def _goal_reward(self, velocities: np.ndarray) -> np.ndarray:
        return self._direction * velocities


class HalfCheetahVel(HalfCheetah):
    """Run at a goal velocity, uniform in [0, 2] m/s: reward minus the absolute error."""

    def _goal_reward(self, velocities: np.ndarray) -> np.ndarray:
        return -np.abs(velocities - self._goal)


class HalfCheetahDir(GoalDirection, HalfCheetah):
    """Run backward (task below 1) or forward (1 to 2): reward v in that direction."""


class AntVel(Ant):
    """Run at a goal velocity, uniform in [0, 3] m/s: reward 1 minus the absolute error."""

    def _goal_reward(self, velocities: np.ndarray) -> np.ndarray:
        return 1 - np.abs(velocities - self._goal)


class AntDir(GoalDirection, Ant):
    """Run backward (task below 1.5) or forward (1.5 to 3): reward v in that direction."""


def _start_ant_paper(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)


def _step_ant_paper(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """``mj_step`` then ``mj_forward``, bit for bit, without what neither the next step nor the caller reads.

    The state's positions and velocities were dealt with when it was reached, so only what depends on the new
    control is due before it is integrated. Afterwards, constraint forces are solved for only if there are
    contacts: the observation holds contact forces, and the solution serves nothing else.
    """
    mujoco.mj_forwardSkip(model, data, _STAGE_VEL, 1)
    mujoco.mj_RungeKutta(model, data, 4)
    mujoco.mj_step1(model, data)
    if data.ncon:
        mujoco.mj_forwardSkip(model, data, _STAGE_VEL, 1)
        mujoco.mj_rnePostConstraint(model, data)
    else:
        data.cfrc_ext.fill(0)


def _step_ant_gymnasium(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    mujoco.mj_step(model, data, nstep=_FRAME_SKIP)
    mujoco.mj_rnePostConstraint(model, data)
