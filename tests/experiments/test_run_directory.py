"""Runs on disk: what is written is read back, and nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maml_rl.experiments.run import Run
from maml_rl.policies.mlp import GaussianMLP
from maml_rl.policies.policy_file import PolicyFileError, load_policy, save_policy
from maml_rl.tools.files import write_atomically
from maml_rl.tools.run_directory import RunError

SPEC = GaussianMLP(2, 2, hidden_sizes=(4,))


def new_run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"preset": "point-nav", "config": {"seed": 1}})


def test_description_round_trip(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    description = Run.open(run.path).description()
    assert description["config"] == {"seed": 1}
    assert {"python", "ray", "torch", "numpy"} <= set(description["versions"])


def test_an_empty_directory_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    new_run(tmp_path)
    with pytest.raises(RunError, match="exists and is not empty"):
        new_run(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"preset": 1}'])
def test_damaged_description(tmp_path: Path, content: str) -> None:
    run = new_run(tmp_path)
    (run.path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        Run.open(run.path)


def test_progress_is_truncated_to_the_checkpoint(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(RunError, match=r"progress\.csv"):
        run.progress()
    for i in range(1, 6):
        run.append_progress({"iteration": i, "return_post": -1.5 * i})
    run.truncate_progress(3)
    assert [row["iteration"] for row in run.progress()] == [1, 2, 3]
    run.append_progress({"iteration": 4, "return_post": 0.25})
    assert run.progress()[-1] == {"iteration": 4, "return_post": 0.25}
    run.truncate_progress(0)
    assert not (run.path / "progress.csv").exists()
    run.truncate_progress(0)


def test_damaged_progress(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (run.path / "progress.csv").write_text("iteration,kl\n1,zero\n")
    with pytest.raises(RunError, match="damaged"):
        run.progress()


def publish(run: Run, iteration: int, names: list[str]) -> None:
    written = run.new_checkpoint(iteration)
    (written / "content").write_text(str(iteration))
    run.publish(written, iteration, names)


def test_checkpoints_keep_what_has_a_name(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(RunError, match="no checkpoint called 'latest'"):
        run.checkpoint("latest")
    publish(run, 1, ["best", "latest"])
    publish(run, 2, ["latest"])
    publish(run, 3, ["latest"])
    assert (run.checkpoint("best") / "content").read_text() == "1"
    assert (run.checkpoint("latest") / "content").read_text() == "3"
    folders = sorted(p.name for p in (run.path / "checkpoints").iterdir() if not p.is_symlink())
    assert folders == ["iteration_000001", "iteration_000003"]


def test_a_checkpoint_cut_off_while_written_is_never_seen(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    publish(run, 1, ["latest"])
    (run.new_checkpoint(2) / "content").write_text("half")
    assert (run.checkpoint("latest") / "content").read_text() == "1"
    publish(run, 2, ["latest"])  # starts from an empty directory again
    assert (run.checkpoint("latest") / "content").read_text() == "2"


def test_the_same_iteration_may_be_published_again(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    publish(run, 1, ["latest"])
    publish(run, 1, ["latest", "best"])
    assert run.checkpoint("best") == run.checkpoint("latest")


def saved(tmp_path: Path) -> Path:
    params = {name: value.numpy() for name, value in SPEC.init_params(0).items()}
    save_policy(tmp_path / "policy.safetensors", SPEC, params, {"env": "maml_rl/PointNav-v0"})
    return tmp_path / "policy.safetensors"


def test_policy_round_trip(tmp_path: Path) -> None:
    loaded = load_policy(saved(tmp_path))
    assert loaded.spec == SPEC
    assert loaded.info["env"] == "maml_rl/PointNav-v0"
    for name, value in SPEC.init_params(0).items():
        np.testing.assert_array_equal(loaded.params[name].numpy(), value.numpy())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


def edit(path: Path, **changes: object) -> None:
    file = path.with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format is 99"),
        ({"sha256": "0" * 64}, "checksum"),
        ({"policy": {"observation_size": 3, "action_size": 2, "hidden_sizes": [4]}}, "do not fit"),
        ({"policy": {"no": 1}}, "not a policy"),
    ],
)
def test_policy_that_does_not_belong_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = saved(tmp_path)
    edit(path, **changes)
    with pytest.raises(PolicyFileError, match=message):
        load_policy(path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    import hashlib
    import pickle

    path = saved(tmp_path)
    path.write_bytes(pickle.dumps({"a": 1}))
    edit(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(PolicyFileError, match="not a policy"):
        load_policy(path)


def test_atomic_write_replaces(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]
