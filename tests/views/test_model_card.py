"""A policy that was exported is the run's, its card tells the truth, and other commands take it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, maml_rl

from maml_rl.cli.app import main
from maml_rl.policies.policy_file import load_policy, save_policy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated run."""
    path = tmp_path_factory.mktemp("card") / "run"
    options = (*TINY, "--iterations", 3, "--normalize-observations", True)
    result = maml_rl("train", "point-nav", *options, "--output", path)
    assert result.returncode == 0, result.stderr
    assert main(["evaluate", str(path), "--tasks", "2", "--num-workers", "0"]) == 0
    return path


@pytest.mark.parametrize("which", ["best", "latest"])
def test_an_exported_policy_is_the_runs(
    run: Path, tmp_path: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    assert main(["export", str(run), "--to", str(folder), "--policy", which]) == 0
    names = {"README.md", "policy.safetensors", "config.json", "adaptation.json"}
    assert (
        {Path(line).name for line in capsys.readouterr().out.split()}
        == names
        == {p.name for p in folder.iterdir()}
    )
    original = load_policy(run / ("policy.safetensors" if which == "best" else "checkpoint.safetensors"))
    exported = load_policy(folder / "policy.safetensors")
    assert not exported.state
    assert "training" not in exported.info
    wanted, found = original.meta_params(), exported.meta_params()
    assert wanted.keys() == found.keys()
    assert any("normalizer" in name for name in found)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    few = ["--tasks", "2", "--num-workers", "0", "--json"]
    assert main(["evaluate", str(run), "--policy", which, *few]) == 0
    of_run = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(folder), "--pretrained", *few]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == of_run["returns"]
    assert {p.name for p in folder.iterdir()} == names  # nothing was written


def test_the_card_has_the_measured_returns_and_loads(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    assert main(["export", str(run), "--to", str(folder)]) == 0
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: maml_rl\n")
    measured = json.loads((run / "adaptation.json").read_text())
    for mean in measured["mean"]:
        assert f"| {mean:.2f} ± " in card
    described = json.loads((run / "config.json").read_text())
    assert f"| `commit` | `{json.dumps(described['commit'])}` |" in card
    assert "| `seed` | `0` |" in card
    program = re.search(r"```python\n(.*?)```", card, re.S)
    assert program is not None
    names: dict[str, Any] = {}
    exec(program[1].replace("FOLDER", str(folder)), names)
    assert len(names["held_out"].tasks) == 40


def test_a_card_of_a_run_that_was_not_measured_says_so(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "adaptation.json").unlink()
    assert main(["export", str(copy), "--to", str(tmp_path / "exported")]) == 0
    assert "Not measured." in (tmp_path / "exported" / "README.md").read_text()
    assert not (tmp_path / "exported" / "adaptation.json").exists()


def test_what_is_there_is_not_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert main(["export", str(run), "--to", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["export", str(run), "--to", str(tmp_path / "a.txt" / "b")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "b")]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert (tmp_path / "a.txt").read_text() == "a"


def test_an_exported_policy_that_lacks_something_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(run / "policy.safetensors")
    info = {name: value for name, value in policy.info.items() if name not in ("policy", "gamma")}
    save_policy(tmp_path / "policy.safetensors", policy.spec, policy.meta_params(), info)
    assert main(["evaluate", str(tmp_path), "--pretrained"]) == 2
    assert "lacks gamma" in capsys.readouterr().err


def test_a_foreign_environment_is_not_imported_because_a_file_names_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(run / "policy.safetensors")
    info = {k: v for k, v in policy.info.items() if k != "policy"} | {"env": "antigravity:Env"}
    save_policy(tmp_path / "policy.safetensors", policy.spec, policy.meta_params(), info)
    assert main(["evaluate", str(tmp_path), "--pretrained"]) == 2
    assert "files do not choose what is imported" in capsys.readouterr().err
