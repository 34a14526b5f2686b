"""Videos: what is filmed, how it is written, without a display; and every refusal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from run_helpers import HORIZON, make_run

from maml_rl.cli.app import main
from maml_rl.envs import make_task_env
from maml_rl.envs.gym_adapter import UserEnvError
from maml_rl.envs.offscreen import RenderingError, choose_backend
from maml_rl.envs.rollout import rollout, stream
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.run import Run
from maml_rl.views.video import Episode, VideoError, film_episode, frame_rate, make_video, write_video

SIZE = (96, 80)
FAMILIES = ("point-nav", "half-cheetah-vel", "ant-dir")


def _rendering_problem() -> str | None:
    try:
        choose_backend()
    except RenderingError as error:
        return str(error)
    return None


PROBLEM = _rendering_problem()
needs_opengl = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
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


def read_mp4(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Description and frames ``[frames, height, width, 3]``."""
    reader = imageio_ffmpeg.read_frames(str(path))
    description = next(reader)
    width, height = description["size"]
    return description, np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader])


def read_gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        frames = []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


def film(preset: str, folder: Path, params_seed: int = 1, seed: int = 0, stride: int = 1) -> Episode:
    """An episode of ``HORIZON`` steps of a policy with random weights."""
    run = make_run(folder / f"run-{params_seed}-{seed}-{stride}", preset)
    held_out = HeldOut(run.policy("best"), seed=seed)
    info, spec = held_out.info, held_out.protocol.spec
    env = make_task_env(info["env"], 1, HORIZON, info["env_config"], render_mode="rgb_array")
    env.render_size = SIZE
    params = {name: value.numpy() for name, value in spec.init_params(params_seed).items()}
    try:
        return film_episode(env, held_out.tasks[0], spec, params, stream(seed), stride)
    finally:
        env.close()


# --- what is filmed


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


# --- files


def test_mp4_plays_in_browsers(run: Run) -> None:
    arguments = [str(run.path), "--size", "97", "81", "--steps", "2"]
    assert main(["video", *arguments]) == 0
    path = run.path / "video.mp4"
    description, frames = read_mp4(path)
    assert description["codec"] == "h264"
    assert description["pix_fmt"].startswith("yuv420p")
    assert description["fps"] == 20
    assert len(frames) == HORIZON + 1
    height, width = frames.shape[1:3]
    assert width >= 2 * 97
    assert height >= 81
    assert width % 2 == height % 2 == 0
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # playable before it is loaded
    left, right = frames[:, 20:80, :97], frames[:, 20:80, -98:-1]
    assert np.abs(left[0].astype(int) - right[0]).mean() < 3 < np.abs(left[-1].astype(int) - right[-1]).max()
    assert sorted(p.name for p in run.path.glob(".*")) == []


def test_gif(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.gif"
    arguments = ["--task", "0.3", "-0.2", "--size", "96", "80", "--fps", "10", "--output", str(path)]
    assert main(["video", str(run.path), *arguments]) == 0
    assert f"{path}: {HORIZON + 1} frames at 10/s, return -" in capsys.readouterr().out
    frames = read_gif(path)
    assert len(frames) == HORIZON + 1
    assert frames[0].std() > 10
    with Image.open(path) as image:
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0
    first = path.read_bytes()
    assert main(["video", str(run.path), *arguments]) == 0
    assert path.read_bytes() == first
    assert main(["video", str(run.path), *arguments, "--seed", "1"]) == 0
    assert path.read_bytes() != first


@needs_opengl
def test_a_robot(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "half-cheetah-dir", horizon=4)
    path = tmp_path / "robot.mp4"
    assert main(["video", str(run.path), "--size", "64", "64", "--output", str(path)]) == 0
    description, frames = read_mp4(path)
    assert description["fps"] == 50
    assert len(frames) == 3  # steps 0, 2, 4


@needs_opengl
def test_the_shipped_policy_runs_the_other_way_after_one_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--pretrained", "--task", "1.5", "--size", "64", "64", "--output", "forward.gif"]
    assert main(["video", "half-cheetah-dir", *arguments]) == 0
    before, after = re.findall(r"-?\d+\.\d\d", capsys.readouterr().out)
    assert float(before) < 100 < 200 < float(after)
    assert len(read_gif(tmp_path / "forward.gif")) == 101
    assert main(["video", "ant", "--pretrained"]) == 2
    assert "no policy of 'ant' comes with the package" in capsys.readouterr().err


def test_the_default_task_is_the_first_held_out_one(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("default.gif", "given.gif", "other.gif")]
    held_out = HeldOut(run.policy("best"), steps=1)
    for path, task in zip(paths, (None, held_out.tasks[0], held_out.tasks[1]), strict=True):
        make_video(held_out, path, task=task, size=SIZE)
    default, given, other = (path.read_bytes() for path in paths)
    assert default == given != other


def test_returns_are_those_of_the_evaluation_protocol(run: Run, tmp_path: Path) -> None:
    """Negative control: without a step size adaptation changes nothing."""
    policy = run.policy("best")
    moved = make_video(HeldOut(policy, steps=1), tmp_path / "a.gif", size=SIZE)
    still = make_video(HeldOut(policy, steps=1, inner_lr=1e-12), tmp_path / "b.gif", size=SIZE)
    assert still.return_before == pytest.approx(still.return_after, rel=1e-6)
    assert moved.return_before == still.return_before != pytest.approx(moved.return_after, rel=1e-3)


def test_an_interrupted_video_leaves_the_old_one(tmp_path: Path) -> None:
    def frames() -> Iterator[Image.Image]:
        yield Image.new("RGB", (64, 64), "red")
        yield Image.new("RGB", (64, 64), "blue")
        raise KeyboardInterrupt

    for name in ("a.gif", "a.mp4"):
        path = tmp_path / name
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt):
            write_video(frames(), path, 10)
        assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failing_ffmpeg_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho no space left >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    frames = (Image.new("RGB", (640, 480)) for _ in range(20))
    with pytest.raises(OSError, match="status 3: no space left"):
        write_video(frames, tmp_path / "a.mp4", 10)
    assert not (tmp_path / "a.mp4").exists()


# --- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "0.3"], "task is [0.3]; a task of maml_rl/PointNav-v0 has 2 number(s)"),
        (["--task", "3", "0"], "PointNav.set_task: task is array([3., 0.]); allowed: Box(-0.5, 0.5"),
        (["--task", "nan", "0"], "PointNav.set_task: task is array([nan,  0.])"),
        (["--steps", "0"], "steps is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--size", "10", "80"], "size is 10 x 80; both must be from 64 to 2048 pixels"),
        (["--fps", "0"], "fps is 0; for .mp4 it must be above 0 and at most 240"),
        (["--output", "a.avi"], "output is 'a.avi'; it must end in .mp4 or .gif"),
        (["--output", "no/such/a.gif"], "output is 'no/such/a.gif', but there is no folder 'no/such'"),
        (["--inner-lr", "0"], "inner_lr is 0.0; it must be positive"),
    ],
)
def test_wrong_input(
    run: Run, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.path.iterdir())
    assert main(["video", str(run.path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(run.path.iterdir()) == before


def test_a_policy_that_is_not_adapted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", method="oracle")
    assert main(["video", str(run.path)]) == 2
    assert "a policy of method 'oracle' is not adapted" in capsys.readouterr().err


def test_no_run_and_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", "no/such/run"]) == 2
    assert "no/such/run is not a run: config.json" in capsys.readouterr().err
    run = make_run(tmp_path / "run", iterations=0)
    assert main(["video", str(run.path)]) == 2
    assert "holds no policy.safetensors: the run has not finished an iteration" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "changed", "pickle"])
def test_a_tampered_policy(run: Run, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    path = run.path / "policy.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(
        {"truncated": data[:-9], "changed": bytes(data), "pickle": pickle.dumps({"a": 1})}[damage]
    )
    assert main(["video", str(run.path)]) == 2
    assert "checksum does not match; the file is truncated or was changed" in capsys.readouterr().err
    assert not (run.path / "video.mp4").exists()


def test_a_policy_of_another_environment(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(tmp_path / "other", "half-cheetah-vel")
    for name in ("policy.safetensors", "policy.json"):
        shutil.copy(other.path / name, run.path / name)
    assert main(["video", str(run.path)]) == 2
    error = capsys.readouterr().err
    assert "is a policy of 'maml_rl/HalfCheetahVel-v0', but the run is of 'maml_rl/PointNav-v0'" in error


def test_a_policy_of_another_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "half-cheetah-vel")
    description = run.path / "policy.json"
    description.write_text(description.read_text().replace('"paper"', '"gymnasium"'))
    assert main(["video", str(run.path)]) == 2
    assert "(observations, actions) = (20, 6), but maml_rl/HalfCheetahVel-v0 needs (17, 6)" in (
        capsys.readouterr().err
    )


def test_a_policy_whose_description_lacks_something(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    description = run.path / "policy.json"
    description.write_text(description.read_text().replace('"inner_lr"', '"lr"'))
    assert main(["video", str(run.path)]) == 2
    assert "policy.json lacks inner_lr" in capsys.readouterr().err


# --- environments of users


class Dot(gymnasium.Env[np.ndarray, np.ndarray]):
    """A dot on a line, drawn on a wide picture."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)

    def __init__(self, render_mode: str | None = None, picture: str = "good") -> None:
        self.render_mode, self._picture = render_mode, picture
        self._x = self._goal = 0.0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, n)

    def set_task(self, task: float) -> None:
        self._goal = float(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._x = 0.0
        return np.array([self._x]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._x += 0.1 * float(action[0])
        return np.array([self._x]), -abs(self._x - self._goal), False, False, {}

    def render(self) -> Any:
        if self._picture == "bad":
            return np.zeros((2, 2))
        picture = np.zeros((50, 200, 3), np.uint8)
        picture[:, 100 + int(20 * self._x)] = 255
        return picture


class Unseen(Dot):
    """Cannot be rendered, and says so."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012


class Closed(Dot):
    """Takes no ``render_mode``."""

    def __init__(self) -> None:
        super().__init__()


def test_an_environment_of_the_user(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "test_video:Dot")
    path = tmp_path / "dot.mp4"
    assert main(["video", str(run.path), "--task", "0.5", "--size", "100", "80", "--output", str(path)]) == 0
    description, frames = read_mp4(path)
    assert description["fps"] == 10
    assert len(frames) == HORIZON + 1
    # The picture is four times as wide as high: it is fitted in, on white.
    assert frames[0, 30, 10].max() > 240
    assert frames[0, 60, 10].max() < 20


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("Unseen", 2, "test_video:Unseen: render_mode is 'rgb_array'; allowed: none"),
        ("Closed", 1, "test_video:Closed.__init__: no instance could be made: TypeError"),
    ],
)
def test_an_environment_that_cannot_be_rendered(
    tmp_path: Path, name: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", f"test_video:{name}")
    assert main(["video", str(run.path)]) == status
    assert message in capsys.readouterr().err


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    env = make_task_env("test_video:Dot", 1, 5, {"picture": "bad"}, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(UserEnvError, match=r"(?s)test_video:Dot\.render: returned .*, not an image"):
        env.render()


def test_families_refuse_other_render_modes() -> None:
    with pytest.raises(ValueError, match="PointNav: render_mode is 'human'; allowed: rgb_array"):
        make_task_env("maml_rl/PointNav-v0", 1, 5, render_mode="human")


# --- OpenGL: each backend is tried in a real process of its own


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no backend had been chosen yet."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    choose_backend.cache_clear()
    yield
    choose_backend.cache_clear()


def break_libraries(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the next processes find these libraries, but be unable to load them."""
    folder.mkdir()
    for name in names:
        for version in ("", ".0", ".1", ".2", ".6", ".8"):
            (folder / f"lib{name}.so{version}").write_text("")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))


linux = pytest.mark.skipif(sys.platform != "linux", reason="library names of Linux")


@linux
@pytest.mark.usefixtures("unset")
def test_no_opengl_names_the_packages_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", "ant-vel")
    break_libraries(tmp_path / "lib", monkeypatch, "EGL", "OSMesa")
    assert main(["video", str(run.path)]) == 2
    error = capsys.readouterr().err
    for part in (
        "MuJoCo cannot render offscreen (egl: ",
        "; osmesa: ",
        "libegl1",
        "libosmesa6",
        "mesa-libEGL",
    ):
        assert part in error
    assert error.count("\n") == 1


@linux
@pytest.mark.usefixtures("unset")
def test_osmesa_stands_in_for_egl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    try:
        assert choose_backend() == "osmesa"
    except RenderingError as error:
        pytest.skip(str(error))
    monkeypatch.delenv("MUJOCO_GL")
    choose_backend.cache_clear()
    break_libraries(tmp_path / "lib", monkeypatch, "EGL")
    assert choose_backend() == os.environ["MUJOCO_GL"] == "osmesa"


def test_nonsense_in_mujoco_gl_is_wrong_input(tmp_path: Path) -> None:
    """In a fresh process: MuJoCo itself refuses the value, less clearly, as soon as it is imported."""
    run = make_run(tmp_path / "run", "half-cheetah-vel")
    result = subprocess.run(
        [sys.executable, "-m", "maml_rl", "video", str(run.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "MUJOCO_GL": "nonsense"},
    )
    assert result.returncode == 2, result.stderr
    assert "MUJOCO_GL is 'nonsense'; allowed: " in result.stderr
