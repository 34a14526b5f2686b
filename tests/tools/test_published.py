"""Published results: what is written is read back, names tell results apart, damaged files are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maml_rl.tools.published import CURVE_POINTS, Published, by_kind, training_of
from maml_rl.tools.run_directory import RunDirectory, RunError


def record(**changes: Any) -> Published:
    rows = {"return": np.array([[1.0, 1 / 3], [np.nan, 123456789.0]])}
    base = Published(
        program="maml-rl",
        preset="point-nav",
        method="maml",
        settings={},
        protocol={},
        seed=3,
        commands=["maml-rl train point-nav --env-config goal '[1, 2]'"],
        model={"iteration": 7},
        training={"env_steps": 10},
        evaluation={},
        rows=rows,
        groups=("a", "b"),
    )
    return replace(base, **changes)


def test_what_is_written_is_read_back_with_six_digits(tmp_path: Path) -> None:
    path = record().save(tmp_path / "new")
    assert path == tmp_path / "new" / "point-nav.maml.seed3.json"
    found = Published.load(path)
    np.testing.assert_array_equal(found.rows["return"], [[1.0, 0.333333], [np.nan, 123457000.0]])
    assert found.commands == record().commands
    assert found.groups == ["a", "b"]
    assert found.training == {"env_steps": 10}
    assert '"return": [\n   [1.0, 0.333333],\n   [null, 123457000.0]\n  ]' in path.read_text()


def test_names_tell_settings_and_protocols_apart() -> None:
    names = [
        record(**changes).name
        for changes in (
            {},
            {"seed": 4},
            {"method": "rl2"},
            {"settings": {"gae_lambda": 1.0}},
            {"settings": {"hidden_sizes": [512, 512]}},
            {"settings": {"env_config": {"goal": "../../x"}}},
            {"protocol": {"deterministic": True}},
            {"settings": {f"field_{i}": i for i in range(40)}},
            {"settings": {f"field_{i}": i for i in range(41)}},
        )
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) < 140 and "/" not in name for name in names)
    assert names[3] == "point-nav.maml.gae_lambda=1.0.seed3"


def test_seeds_of_a_kind_are_joined_and_titles_tell_kinds_apart() -> None:
    results = [
        record(seed=1, settings={"max_kl": 0.03}, protocol={"policy": "latest"}),
        record(seed=2),
        record(seed=2, settings={"max_kl": 0.03}),
        record(seed=5),
        record(seed=2, method="rl2"),
    ]
    found = {members[0].title: [r.seed for r in members] for members in by_kind(results)}
    assert found == {
        "maml": [2, 5],
        "maml (max_kl 0.03)": [2],
        "maml (max_kl 0.03, policy latest)": [1],
        "rl2": [2],
    }


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "rows": {"return": "x"}}']
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"a\.json is no published result"):
        Published.load(path)
    with pytest.raises(RunError, match=r"b\.json is no published result"):
        Published.load(tmp_path / "b.json")


def test_training_is_told_from_the_log(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"config": {}, "started": "now"})
    count = 2 * CURVE_POINTS + 1  # three rows a point then
    for i in range(1, count + 1):
        run.append_progress({"iteration": i, "return_post": i, "env_steps": 10, "seconds_total": 0.5})
    told = training_of(run)
    assert (told["iterations"], told["env_steps"], told["seconds"]) == (count, 10 * count, count / 2)
    assert told["commit"] == json.loads((tmp_path / "run" / "config.json").read_text())["commit"]
    curve = told["curve"]
    assert curve["iteration"][:2] == [3, 6]
    assert curve["env_steps"][:2] == [30, 60]
    assert curve["return_post"][:2] == [2, 5]
    assert (curve["env_steps"][-1], curve["iteration"][-1]) == (10 * count, count)
    assert "seconds_total" not in curve


def test_rows_of_several_iterations_tell_seconds_of_one(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"config": {}})
    for iteration, seconds in ((10, 0.5), (15, 2.0)):
        run.append_progress({"iteration": iteration, "query_loss": 1.0, "seconds": seconds})
    assert training_of(run)["seconds"] == 10 * 0.5 + 5 * 2.0


def test_a_run_without_iterations_has_no_curve(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"config": {}})
    told = training_of(run)
    assert (told["iterations"], told["seconds"], told["curve"]) == (0, 0, {})
