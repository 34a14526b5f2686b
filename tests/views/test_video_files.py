"""Video files as players read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_helpers import HORIZON, make_run
from video_helpers import SIZE, needs_opengl, read_mp4

from maml_rl.cli.app import main
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.run import Run
from maml_rl.views.video import make_video, write_video


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo appends its warnings to a log in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


def read_gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        frames = []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


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


@pytest.mark.parametrize(
    ("method", "told", "pictures"),
    [
        ("oracle", r"return \S+ without adaptation", 1),
        ("rl2", r"return \S+ in episode 1, \S+ in episode 2", 2),
    ],
)
def test_a_policy_that_is_not_adapted(
    method: str, told: str, pictures: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", method=method)
    assert main(["report", str(run.path)]) == 0
    assert "No video yet" in (run.path / "report.html").read_text()
    assert main(["video", str(run.path), "--size", "64", "64"]) == 0
    assert re.search(rf"{HORIZON + 1} frames at 20/s, {told}$", capsys.readouterr().out, re.MULTILINE)
    _, frames = read_mp4(run.path / "video.mp4")
    assert frames.shape[2] == pictures * 64 + (pictures - 1) * 8
    assert len(frames) == HORIZON + 1
    for place in range(pictures):
        picture = frames[:, 20:70, place * 72 : place * 72 + 64].astype(int)
        assert np.abs(picture[0] - picture[-1]).max() > 20  # it moves
    assert main(["report", str(run.path)]) == 0
    page = (run.path / "report.html").read_text()
    assert "No video yet" not in page
    assert "after adaptation (right)" not in page


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
    assert list(moved.returns) == ["before adaptation", "after 1 gradient step"]
    (before, after), (moved_before, moved_after) = still.returns.values(), moved.returns.values()
    assert before == pytest.approx(after, rel=1e-6)
    assert moved_before == before != pytest.approx(moved_after, rel=1e-3)


def test_each_part_of_the_work_is_counted_to_its_end(run: Run, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def show(what: str, done: int, total: int) -> None:
        told.setdefault(what, []).append((done, total))

    made = make_video(HeldOut(run.policy("best"), steps=2), tmp_path / "a.gif", size=SIZE, show=show)
    assert list(told) == ["adapting", "filming before adaptation", "filming after adaptation", "writing"]
    assert told["adapting"] == [(1, 3), (2, 3), (3, 3)]
    assert told["writing"] == [(k + 1, made.frames) for k in range(made.frames)]
    for steps in told.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


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
