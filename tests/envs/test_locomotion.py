"""Half-cheetah and ant: Gymnasium's interface, rewards, and bitwise agreement with plain one-episode references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from maml_rl.envs.locomotion import AntDir, AntVel, HalfCheetahDir, HalfCheetahVel, Locomotion
from maml_rl.envs.mujoco_batch import load_model

FAMILIES = (HalfCheetahVel, HalfCheetahDir, AntVel, AntDir)
VARIANTS = ("paper", "gymnasium")
all_variants = pytest.mark.parametrize(
    ("family", "variant"),
    [(f, v) for f in FAMILIES for v in VARIANTS],
    ids=lambda x: getattr(x, "__name__", x),
)
ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo appends its warnings to a log in the working directory."""
    monkeypatch.chdir(tmp_path)


def make(family: type[Locomotion], num_envs: int = 3, **kwargs: Any) -> Locomotion:
    return family(num_envs, **({"autoreset_mode": AutoresetMode.DISABLED} | kwargs))


def random_actions(env: Locomotion, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, env.num_envs, env.action_size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def run(env: Locomotion, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Observations, rewards, terminations and truncations, stacked over time."""
    return tuple(np.stack(x) for x in zip(*(env.step(a)[:4] for a in actions), strict=True))


# --- conformance


@all_variants
def test_spaces(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant)
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    assert env.observation_space.shape == (3, env.observation_sizes[variant])
    observations, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    assert observations in env.observation_space
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert rewards.dtype == np.float64
    tasks = env.sample_tasks(1000, np.random.default_rng(0))
    assert tasks.shape == (1000,)
    assert 0 <= tasks.min() < 0.01 * env.max_goal
    assert 0.99 * env.max_goal < tasks.max() <= env.max_goal
    env.set_task(tasks[0])
    assert env.task == tasks[0]


@all_variants
def test_runs_are_a_function_of_the_seed(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant)
    actions = random_actions(env, 20)

    def rollout(seed: int) -> list[np.ndarray]:
        env.set_task(0.5)
        return [env.reset(seed=seed)[0], *run(env, actions)]

    first, second, other = rollout(1), rollout(1), rollout(4)
    for x, y in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (first[0] != other[0]).any(axis=1).all()
    assert len(np.unique(first[0], axis=0)) == 3, "copies start in different states"


@all_variants
def test_a_batch_equals_single_runs(family: type[Locomotion], variant: str) -> None:
    env = make(family, 4, variant=variant, max_episode_steps=200)
    env.set_task(0.5)
    start, _ = env.reset(seed=7)
    actions = random_actions(env, 60)
    batch = run(env, actions)
    for k in range(4):
        single = make(family, 1, variant=variant, max_episode_steps=200)
        single.set_task(0.5)
        np.testing.assert_array_equal(single.reset(seed=7 + k)[0][0], start[k])
        for together, alone in zip(batch, run(single, actions[:, k : k + 1]), strict=True):
            np.testing.assert_array_equal(together[:, k], alone[:, 0])


@all_variants
def test_a_task_changes_the_reward_and_nothing_else(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant)
    actions = random_actions(env, 30)
    results = []
    for task in (0.0, env.max_goal):
        env.set_task(task)
        env.reset(seed=0)
        results.append(run(env, actions))
    (observations, rewards, *ends), (other_observations, other_rewards, *other_ends) = results
    np.testing.assert_array_equal(observations, other_observations)
    np.testing.assert_array_equal(ends, other_ends)
    assert (rewards != other_rewards)[0].all()


@all_variants
def test_finished_copies_stand_still(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant, max_episode_steps=3)
    env.reset(seed=0)
    observations, rewards, terminated, truncated = run(env, random_actions(env, 5))
    assert not terminated.any()
    assert not truncated[:2].any()
    assert truncated[2:].all()
    assert (rewards[:3] != 0).all()
    assert (rewards[3:] == 0).all()
    np.testing.assert_array_equal(observations[3:], observations[[2, 2]])
    kept = env.reset(options={"reset_mask": np.array([False, True, False])})[0]
    np.testing.assert_array_equal(kept[[0, 2]], observations[2][[0, 2]])
    assert (kept[1] != observations[2][1]).any()


@all_variants
def test_autoreset_starts_the_next_episode(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant, max_episode_steps=2, autoreset_mode=AutoresetMode.NEXT_STEP)
    start, _ = env.reset(seed=0)
    observations, rewards, _, truncated = run(env, random_actions(env, 5))
    np.testing.assert_array_equal(truncated[:, 0], [False, True, False, False, True])
    assert (rewards[2] == 0).all()
    assert np.abs(observations[2] - start).max() < np.abs(observations[1] - start).max()


@all_variants
def test_returned_observations_stay_as_they_were(family: type[Locomotion], variant: str) -> None:
    env = make(family, variant=variant)
    start, _ = env.reset(seed=0)
    copy = start.copy()
    run(env, random_actions(env, 2))
    env.reset()
    np.testing.assert_array_equal(start, copy)


@pytest.mark.parametrize("bad", [1.01, -2.0, np.nan])
def test_an_action_outside_the_box_is_refused(bad: float) -> None:
    env = make(AntVel)
    env.reset(seed=0)
    actions = np.zeros((3, 8))
    actions[1, 2] = bad
    with pytest.raises(ValueError, match=r"AntVel.step: actions must lie in Box\(-1.0, 1.0, \(8,\)"):
        env.step(actions)


@pytest.mark.parametrize("task", [-0.1, 2.1, np.nan, [1.0, 1.0]])
def test_an_unknown_task_is_refused(task: Any) -> None:
    with pytest.raises(ValueError, match=r"HalfCheetahVel.set_task: task is"):
        make(HalfCheetahVel).set_task(task)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="variant is 'v5'; allowed: paper, gymnasium"):
        make(HalfCheetahVel, variant="v5")


# --- the paper's variant against one MjData, stepped and then recomputed in full


class Reference:
    """One episode of a published environment, written down naively."""

    def __init__(self, ant: bool, task: float, direction: bool) -> None:
        self.ant, self.task, self.direction = ant, task, direction
        self.model = load_quietly("ant" if ant else "half_cheetah")
        if ant:
            self.model.opt.timestep = 0.02
            self.model.geom_solimp[:, :3] = [0.8, 0.8, 0.01]
        self.data = mujoco.MjData(self.model)

    def reset(self, rng: np.random.Generator) -> np.ndarray:
        qpos = self.model.numeric("init_qpos").data if self.ant else self.model.qpos0
        self.data.qpos[:] = qpos + 0.01 * rng.standard_normal(self.model.nq)
        self.data.qvel[:] = 0.1 * rng.standard_normal(self.model.nv)
        return self.observe()

    def observe(self) -> np.ndarray:
        d = self.data
        mujoco.mj_forward(self.model, d)
        mujoco.mj_subtreeVel(self.model, d)
        mujoco.mj_rnePostConstraint(self.model, d)
        if not self.ant:
            return np.concatenate([d.qpos[1:], d.qvel, d.subtree_com[1]])
        forces = np.clip(d.cfrc_ext, -1, 1).ravel()
        return np.concatenate([d.qpos, d.qvel, forces, d.xmat[1], d.subtree_com[1]])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        observation = self.observe()
        return observation, self.reward(action.astype(np.float64)), self.done()

    def reward(self, action: np.ndarray) -> float:
        v = self.data.subtree_linvel[1, 0]
        if self.direction:
            goal = (-1 if self.task < (1.5 if self.ant else 1.0) else 1) * v
        else:
            goal = (1 if self.ant else 0) - abs(v - self.task)
        if not self.ant:
            return goal - 0.05 * np.dot(action, action)
        forces = np.clip(self.data.cfrc_ext, -1, 1).ravel()
        return goal + 0.05 - 0.005 * np.dot(action, action) - 0.0005 * np.dot(forces, forces)

    def done(self) -> bool:
        return self.ant and not 0.2 <= self.data.qpos[2] <= 1.0


def load_quietly(name: str) -> mujoco.MjModel:
    """Gymnasium's model, read without the code under test."""
    messages: list[str] = []
    mujoco.set_mju_user_warning(messages.append)
    try:
        return mujoco.MjModel.from_xml_path(str(ASSETS / f"{name}.xml"))
    finally:
        mujoco.set_mju_user_warning(None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_paper_variant_equals_the_plain_reference(family: type[Locomotion], share: float) -> None:
    task = share * family.max_goal
    env = make(family, 5, max_episode_steps=200)
    env.set_task(task)
    start, _ = env.reset(seed=3)
    actions = np.sign(random_actions(env, 200, seed=1))  # full force turns some ants over
    observations, rewards, terminated, _ = run(env, actions)
    ends = []
    for k in range(5):
        episode = Reference(issubclass(family, AntVel | AntDir), task, family in (HalfCheetahDir, AntDir))
        np.testing.assert_array_equal(start[k], episode.reset(np.random.default_rng(3 + k)))
        for t, action in enumerate(actions[:, k]):
            observation, reward, done = episode.step(action)
            np.testing.assert_array_equal(observations[t, k], observation)
            assert rewards[t, k] == reward
            assert terminated[t, k] == done
            if done:
                ends.append(t)
                break
    assert len(ends) < 5
    assert bool(ends) == episode.ant, "the comparison must cover early terminations of the ant"


# --- Gymnasium's variant against Gymnasium


@pytest.mark.parametrize(("family", "name"), [(HalfCheetahVel, "HalfCheetah-v5"), (AntDir, "Ant-v5")])
def test_gymnasium_variant_equals_gymnasium(family: type[Locomotion], name: str) -> None:
    env = make(family, 3, variant="gymnasium")
    env.set_task(0.9 * env.max_goal)
    start, _ = env.reset(seed=11)
    actions = random_actions(env, 200, seed=1)
    actions[:, 2] *= 0.1  # an ant that hardly moves lives to the horizon
    observations, rewards, terminated, _ = run(env, actions)
    lengths = []
    for k in range(3):
        original = gymnasium.make(name)
        np.testing.assert_array_equal(original.reset(seed=11 + k)[0], start[k])
        for t, action in enumerate(actions[:, k]):
            observation, _, done, _, info = original.step(action)
            np.testing.assert_array_equal(observations[t, k], observation)
            assert terminated[t, k] == done
            assert rewards[t, k] == pytest.approx(task_reward(env, info, action), abs=1e-12)
            if done:
                break
        lengths.append(t + 1)
    assert max(lengths) == 200


def task_reward(env: Locomotion, info: dict[str, float], action: np.ndarray) -> float:
    """The published reward from Gymnasium's own x velocity and contact cost (its weight is the published one)."""
    squares = float(np.sum(np.square(action, dtype=np.float64)))
    if isinstance(env, HalfCheetahVel):
        return -abs(info["x_velocity"] - 1.8) - 0.05 * squares
    return info["x_velocity"] + 0.05 - 0.005 * squares + info["reward_contact"]


# --- rewards by hand


@pytest.mark.parametrize(
    ("family", "task", "expected"),
    [
        (HalfCheetahVel, 1.5, -abs(0.7 - 1.5) - 0.05 * 0.75),
        (HalfCheetahDir, 0.99, -0.7 - 0.05 * 0.75),
        (HalfCheetahDir, 1.0, 0.7 - 0.05 * 0.75),
        (AntVel, 1.5, 1 - abs(0.7 - 1.5) + 0.05 - 0.005 * 0.75 - 0.0005 * 1.25),
        (AntDir, 1.49, -0.7 + 0.05 - 0.005 * 0.75 - 0.0005 * 1.25),
        (AntDir, 1.5, 0.7 + 0.05 - 0.005 * 0.75 - 0.0005 * 1.25),
    ],
)
def test_rewards_by_hand(
    family: type[Locomotion], task: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At v = 0.7 m/s with three motors at +-0.5, and for the ant two contact forces, 0.5 and 3 (clipped to 1)."""
    env = make(family, 1)
    env.set_task(task)
    env.reset(seed=0)
    rows = env._simulations.read()
    rows[:, -8] = 0.7
    if isinstance(env, AntVel | AntDir):
        rows[:, 29:113] = 0
        rows[:, [40, 90]] = 0.5, 3.0
    monkeypatch.setattr(env._simulations, "read", rows.copy)
    actions = np.zeros((1, env.action_size), np.float32)
    actions[0, :3] = 0.5, -0.5, 0.5
    assert env.step(actions)[1] == pytest.approx([expected])


# --- divergence


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e12])
@all_variants
def test_a_diverged_simulation_ends_its_episode(
    family: type[Locomotion], variant: str, poison: float
) -> None:
    env, healthy = make(family, variant=variant), make(family, variant=variant)
    actions = random_actions(env, 4)
    for e in (env, healthy):
        e.set_task(1.0)
        e.reset(seed=0)
    before, *_ = env.step(actions[0])
    healthy.step(actions[0])
    corrupt(env, 1, poison)
    observations, rewards, terminated, truncated, _ = env.step(actions[1])
    np.testing.assert_array_equal(terminated, [False, True, False])
    assert not truncated.any()
    assert env.diverged_episodes == 1
    np.testing.assert_array_equal(observations[1], before[1])
    assert rewards[1] == 0
    others = [0, 2]
    np.testing.assert_array_equal(observations[others], healthy.step(actions[1])[0][others])
    later = run(env, actions[2:])
    assert np.isfinite(later[0]).all()
    assert np.isfinite(later[1]).all()
    np.testing.assert_array_equal(later[0][:, 1], before[[1, 1]])
    assert env.diverged_episodes == 1, "an episode is counted once"
    env.reset(seed=0)
    assert not env.step(actions[0])[2].any(), "the next episode starts afresh"


def corrupt(env: Locomotion, copy: int, value: float) -> None:
    """Overwrite one joint velocity of one copy."""
    simulations: Any = env._simulations
    qvel = simulations._data[copy].qvel if hasattr(simulations, "_data") else simulations._qvel[copy]
    qvel[4] = value


@all_variants
def test_physics_that_explodes_by_itself_is_noticed(
    family: type[Locomotion], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_strong_model(*args: Any) -> mujoco.MjModel:
        model = load_model(*args)
        model.actuator_gear *= 1e6
        return model

    monkeypatch.setattr("maml_rl.envs.locomotion.load_model", load_strong_model)
    env = make(family, 2, variant=variant)
    env.reset(seed=0)
    observations, rewards, terminated, _ = run(env, np.sign(random_actions(env, 50)))
    assert terminated[-1].all()
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    # The ant is out of bounds before its numbers are.
    assert env.diverged_episodes == 2 or family in (AntVel, AntDir)
