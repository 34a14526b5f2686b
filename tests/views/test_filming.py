"""What is filmed: motion, the same start, captions, the camera, real time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_helpers import HORIZON, make_run
from video_helpers import SIZE, needs_opengl

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.run import Run
from maml_rl.views.video import Episode, VideoError, film_episodes, frame_rate, make_video

FAMILIES = ("point-nav", "half-cheetah-vel", "ant-dir")


families = pytest.mark.parametrize(
    "preset",
    [name if name == "point-nav" else pytest.param(name, marks=needs_opengl) for name in FAMILIES],
)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo appends its warnings to a log in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


def film(preset: str, folder: Path, params_seed: int = 1, seed: int = 0, stride: int = 1) -> Episode:
    """An episode of ``HORIZON`` steps of a policy with random weights."""
    run = make_run(folder / f"run-{params_seed}-{seed}-{stride}", preset)
    held_out = HeldOut(run.policy("best"), seed=seed)
    info, spec = held_out.info, held_out.protocol.spec
    env = make_task_env(info["env"], 1, HORIZON, info["env_config"], render_mode="rgb_array")
    env.render_size = SIZE
    params = {name: value.numpy() for name, value in spec.init_params(params_seed).items()}
    try:
        return film_episodes(env, held_out.tasks[0], spec, params, stream(seed), stride)[0]
    finally:
        env.close()


@families
def test_pictures_show_the_motion(preset: str, tmp_path: Path) -> None:
    episode = film(preset, tmp_path)
    assert len(episode.pictures) == len(episode.rewards) + 1 == HORIZON + 1
    assert all(picture.shape == (SIZE[1], SIZE[0], 3) for picture in episode.pictures)
    assert all(picture.std() > 10 for picture in episode.pictures)
    for picture, later in zip(episode.pictures, episode.pictures[1:], strict=False):
        assert (picture != later).any()


@families
def test_pictures_are_a_function_of_the_seed(preset: str, tmp_path: Path) -> None:
    first, again = film(preset, tmp_path / "1"), film(preset, tmp_path / "2")
    other = film(preset, tmp_path / "3", seed=1)
    np.testing.assert_array_equal(first.pictures, again.pictures)
    assert (np.stack(first.pictures) != np.stack(other.pictures)).any()


@families
def test_policies_start_alike_and_part(preset: str, tmp_path: Path) -> None:
    first, other = film(preset, tmp_path), film(preset, tmp_path, params_seed=2)
    np.testing.assert_array_equal(first.pictures[0], other.pictures[0])
    assert (first.pictures[-1] != other.pictures[-1]).any()


@families
def test_filming_changes_nothing(preset: str, tmp_path: Path) -> None:
    held_out = HeldOut(make_run(tmp_path / "run", preset).policy("best"))
    info, spec = held_out.info, held_out.protocol.spec
    params = {name: value.numpy() for name, value in spec.init_params(1).items()}
    env = make_task_env(info["env"], 1, HORIZON, info["env_config"])
    unseen = rollout(env, held_out.tasks[0], spec, params, stream(0))
    np.testing.assert_array_equal(film(preset, tmp_path).rewards, unseen.rewards[0])


def test_a_stride_leaves_out_pictures_but_never_the_last(tmp_path: Path) -> None:
    every, fifth = film("point-nav", tmp_path), film("point-nav", tmp_path, stride=5)
    assert [fifth.steps(k) for k in range(4)] == [0, 5, 10, 12]
    np.testing.assert_array_equal(fifth.pictures, [every.pictures[k] for k in (0, 5, 10, 12)])


@pytest.mark.parametrize("stride", [1, 5])
def test_of_a_trial_the_first_and_the_last_episode_are_shown(stride: int, tmp_path: Path) -> None:
    """Each begins with its own first state; the first one's end is not seen, since the next has begun there."""
    run = make_run(tmp_path / "run", method="rl2")
    held_out = HeldOut(run.policy("best"))
    info, spec = held_out.info, held_out.protocol.spec
    env = make_task_env(info["env"], 1, HORIZON, {"trial_episodes": 3}, render_mode="rgb_array")
    env.render_size = SIZE
    params = {name: value.numpy() for name, value in spec.init_params(1).items()}
    unseen = rollout(env, held_out.tasks[0], spec, params, stream(0)).rewards[0]
    shown = film_episodes(env, held_out.tasks[0], spec, params, stream(0), stride)
    assert list(shown) == [0, 2]
    np.testing.assert_array_equal(shown[0].rewards, unseen[:HORIZON])
    np.testing.assert_array_equal(shown[2].rewards, unseen[2 * HORIZON :])
    pictures = {number: len(episode.pictures) for number, episode in shown.items()}
    of_episode = -(-HORIZON // stride)
    assert pictures == {0: of_episode, 2: of_episode + 1}
    np.testing.assert_array_equal(shown[0].pictures[0], shown[2].pictures[0])  # where every episode starts
    assert (shown[0].pictures[1] != shown[2].pictures[1]).any()
    assert shown[0].frames == shown[2].frames == of_episode + 1
    env.close()


def test_the_shown_episodes_of_a_trial_have_the_returns_that_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", method="rl2")
    held_out = HeldOut(run.policy("best"), seed=3)
    made = make_video(held_out, tmp_path / "a.gif", size=SIZE)
    params = {name: value.numpy() for name, value in run.policy("best").params.items()}
    seed = stream(3, Phase.VIDEO)
    env = make_task_env("maml_rl/PointNav-v0", 1, HORIZON, held_out.info["env_config"])
    rewards = rollout(env, held_out.tasks[0], held_out.protocol.spec, params, seed).rewards[0]
    assert made.returns == {
        "in episode 1": pytest.approx(rewards[:HORIZON].sum()),
        "in episode 2": pytest.approx(rewards[HORIZON:].sum()),
    }


def test_captions_count_what_is_shown() -> None:
    pictures = [np.full((2, 2, 3), k, np.uint8) for k in range(3)]
    episode = Episode(pictures, np.array([1.0, 2.0, 4.0]), stride=2)
    assert [episode.return_at(k) for k in range(4)] == [0, 3, 7, 7]
    assert [episode.steps(k) for k in range(4)] == [0, 2, 3, 3]
    assert [int(episode.picture(k)[0, 0, 0]) for k in range(4)] == [0, 1, 2, 2]


@needs_opengl
@pytest.mark.parametrize("body_size", [20, 40])
def test_camera_follows_over_a_ground_of_1_m_squares(body_size: int) -> None:
    from maml_rl.envs.mujoco_batch import load_model
    from maml_rl.envs.offscreen import TrackingCamera

    model = load_model("half_cheetah")
    reflectance = model.mat_reflectance.copy()
    camera = TrackingCamera(model, "torso", (4 * body_size, 3 * body_size), distance=3.5)
    pose = np.zeros(model.nq)
    start = camera(pose).astype(int)

    def difference(x: float) -> float:
        pose[0] = x
        return float(np.abs(camera(pose) - start).mean())

    # After one square dark and light ones have changed places, after two nothing has changed.
    one, two = difference(1), difference(2)
    camera.close()
    assert two < 3 < 20 < one
    np.testing.assert_array_equal(model.mat_reflectance, reflectance)


def test_point_navigation_shows_goal_and_trail() -> None:
    env = make_task_env("maml_rl/PointNav-v0", 1, 5, render_mode="rgb_array")
    env.set_task([0.5, 0.5])
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.array([[-0.1, 0.0]]))
    (picture,) = env.render() or ()
    green, blue = np.array([44, 160, 44]), np.array([31, 95, 168])
    assert picture.shape == (480, 480, 3)
    np.testing.assert_array_equal(picture[120, 360], green)  # (0.5, 0.5) of [-1, 1]^2, the y axis up
    np.testing.assert_array_equal(picture[240, 120], blue)  # (-0.5, 0)
    assert picture[240, 180].tolist() == [127, 178, 229]  # the trail between start and point
    env.reset(seed=0)
    (picture,) = env.render() or ()
    np.testing.assert_array_equal(picture[240, 240], blue)
    assert picture[240, 180].tolist() == [242, 242, 242]  # no trail of the last episode


def test_the_oracles_environment_is_drawn_like_its_own() -> None:
    pictures = []
    for config in ({}, {"task_in_observation": True}):
        env = make_task_env("maml_rl/PointNav-v0", 2, 5, config, render_mode="rgb_array")
        env.render_size = SIZE
        env.set_task([0.25, -0.25])
        env.reset(seed=0)
        assert env.describe_task() == "goal (0.25, -0.25)"
        pictures.append(env.render())
    np.testing.assert_array_equal(*pictures)


def test_real_time() -> None:
    assert frame_rate(100, None, ".mp4") == (2, 50)
    assert frame_rate(50, None, ".gif") == (1, 50)
    assert frame_rate(20, None, ".gif") == (1, 20)
    assert frame_rate(100, 25, ".gif") == (2, 25)  # the same pictures at half the speed
    for rate, suffix, limit in ((51, ".gif", 50), (241, ".mp4", 240), (0, ".mp4", 240), (-1, ".gif", 50)):
        with pytest.raises(VideoError, match=f"fps is {rate}; for {suffix} .* at most {limit}"):
            frame_rate(20, rate, suffix)


@pytest.mark.parametrize(
    ("name", "variant", "rate"),
    [("HalfCheetahVel", "paper", 100), ("AntDir", "paper", 50), ("AntVel", "gymnasium", 20)],
)
def test_environments_know_their_time(name: str, variant: str, rate: int) -> None:
    env = make_task_env(f"maml_rl/{name}-v0", 1, 5, {"variant": variant})
    assert env.metadata["render_fps"] == rate
