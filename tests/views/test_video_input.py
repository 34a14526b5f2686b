"""What cannot be filmed is refused in one line; environments of users."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from run_helpers import HORIZON, make_run
from video_helpers import read_mp4

from maml_rl.cli.app import main
from maml_rl.envs import make_task_env
from maml_rl.envs.gym_adapter import UserEnvError
from maml_rl.experiments.run import Run
from maml_rl.policies.policy_file import load_policy, save_policy


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo appends its warnings to a log in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


# --- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "0.3"], "task is [0.3]; a task of maml_rl/PointNav-v0 has 2 number(s)"),
        (["--task", "3", "0"], "PointNav.set_task: task is array([3., 0.]); allowed: Box(-0.5, 0.5"),
        (["--task", "nan", "0"], "PointNav.set_task: task is array([nan, 0.])"),
        (["--steps", "0"], "steps is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--size", "10", "80"], "size is 10 x 80; both must be from 64 to 2048 pixels"),
        (["--fps", "0"], "fps is 0; for .mp4 it must be above 0 and at most 240"),
        (["--output", "a.avi"], "output is 'a.avi'; it must end in .mp4 or .gif"),
        (["--output", "no/such/a.gif"], "output is 'no/such/a.gif', but there is no folder 'no/such'"),
        (["--inner-lr", "1e38"], "adaptation diverged after 1 gradient step(s): actions"),
        (["--inner-lr", "nan"], "inner_lr is nan; it must be a positive number"),
        (["--inner-lr", "0"], "inner_lr is 0.0; it must be a positive number"),
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


def test_a_policy_that_is_not_adapted_takes_no_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", method="oracle")
    assert main(["video", str(run.path), "--steps", "1"]) == 2
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
    expected = "checksum does not match" if damage == "changed" else "truncated, or not a policy"
    assert expected in capsys.readouterr().err
    assert not (run.path / "video.mp4").exists()


def test_a_policy_of_another_environment(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(tmp_path / "other", "half-cheetah-vel")
    shutil.copy(other.path / "policy.safetensors", run.path / "policy.safetensors")
    assert main(["video", str(run.path)]) == 2
    error = capsys.readouterr().err
    assert "is a policy of 'maml_rl/HalfCheetahVel-v0', but the run is of 'maml_rl/PointNav-v0'" in error


def rewrite_policy(run: Run, info: dict[str, Any]) -> None:
    policy = load_policy(run.path / "policy.safetensors")
    params = {name: value.numpy() for name, value in policy.params.items()}
    save_policy(run.path / "policy.safetensors", policy.spec, params, info)


def test_a_policy_of_another_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "half-cheetah-vel")
    policy = load_policy(run.path / "policy.safetensors")
    rewrite_policy(run, policy.info | {"env_config": {"variant": "gymnasium"}})
    assert main(["video", str(run.path)]) == 2
    assert "takes observations of 20 numbers, but those of the environment have 17" in capsys.readouterr().err


def test_a_policy_whose_description_lacks_something(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    info = load_policy(run.path / "policy.safetensors").info
    del info["inner_lr"]
    rewrite_policy(run, info)
    assert main(["video", str(run.path)]) == 2
    assert "policy.safetensors lacks inner_lr" in capsys.readouterr().err


# --- environments of users


def test_an_environment_of_the_user(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "drawn_envs:Dot")
    path = tmp_path / "dot.mp4"
    assert (
        main(
            [
                "video",
                str(run.path),
                "--env",
                "drawn_envs:Dot",
                "--task",
                "0.5",
                "--size",
                "100",
                "80",
                "--output",
                str(path),
            ]
        )
        == 0
    )
    description, frames = read_mp4(path)
    assert description["fps"] == 10
    assert len(frames) == HORIZON + 1
    # The picture is four times as wide as high: it is fitted in, on white.
    assert frames[0, 30, 10].max() > 240
    assert frames[0, 60, 10].max() < 20


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("Unseen", 2, "drawn_envs:Unseen: render_mode is 'rgb_array'; allowed: none"),
        ("Closed", 1, "drawn_envs:Closed.__init__: no instance could be made: TypeError"),
    ],
)
def test_an_environment_that_cannot_be_rendered(
    tmp_path: Path, name: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", f"drawn_envs:{name}")
    assert main(["video", str(run.path)]) == 2
    assert "files do not choose what is imported" in capsys.readouterr().err
    assert main(["video", str(run.path), "--env", f"drawn_envs:{name}"]) == status
    assert message in capsys.readouterr().err


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    env = make_task_env("drawn_envs:Dot", 1, 5, {"picture": "bad"}, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(UserEnvError, match=r"(?s)drawn_envs:Dot\.render: returned .*, not an image"):
        env.render()


def test_families_refuse_other_render_modes() -> None:
    with pytest.raises(ValueError, match="PointNav: render_mode is 'human'; allowed: rgb_array"):
        make_task_env("maml_rl/PointNav-v0", 1, 5, render_mode="human")
