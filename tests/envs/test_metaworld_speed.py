"""All 50 families of Meta-World beside the untouched package, and the functions that replace the package's."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import SUPPORT

pytest.importorskip("metaworld", reason="needs the extra: pip install 'maml-rl[metaworld]'")

from metaworld_reference import STEPS, random_action
from scipy.spatial.transform import Rotation

from maml_rl.envs import metaworld as mw
from maml_rl.envs import metaworld_speed as speed


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Goals and rows of every family, from another process."""
    path: Path = tmp_path_factory.mktemp("metaworld") / "reference.npz"
    script = [sys.executable, str(SUPPORT / "metaworld_reference.py"), str(path)]
    subprocess.run(script, check=True, capture_output=True, timeout=500)
    return np.load(path)


def rows_of(family: str, goals: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """``[rows, copies, 41]``: observation, reward and success of two copies."""
    env = mw.MetaWorldML1(2, task=family)
    rows = []
    for goal, acts in zip(goals, actions.reshape(2, STEPS, 4), strict=True):
        task = np.zeros(1 + mw.GOAL_SIZE)
        task[0], task[1 : 1 + len(goal)] = mw.FAMILIES.index(family), goal
        env.set_task(task)
        rows.append(np.c_[env.reset(seed=0)[0], np.zeros((2, 2))])
        for action in acts:
            observations, rewards, *_ = env.step(np.stack([action, action]))
            success = [info["success"] for info in env.infos]
            rows.append(np.c_[observations, rewards, success])
    env.close()
    return np.array(rows)


@pytest.mark.parametrize("family", mw.FAMILIES)
def test_a_family_is_the_packages_to_the_last_bit(reference: Any, family: str) -> None:
    goals, actions, expected = (reference[f"{family}/{key}"] for key in ("goals", "actions", "rows"))
    found = rows_of(family, goals, actions)
    np.testing.assert_array_equal(found[:, 0], expected)
    np.testing.assert_array_equal(found[:, 1], expected)  # the copy that was not reset itself
    assert len(np.unique(expected[:, 39])) > 20  # the expert's rewards are not all zero


def test_experts_succeed_with_most_families(reference: Any) -> None:
    """So the comparison holds where objects are grasped and moved, too."""
    successes = [reference[f"{family}/rows"][:, 40].max() for family in mw.FAMILIES]
    assert np.mean(successes) > 0.8


def test_another_goal_is_told_apart(reference: Any) -> None:
    """What the comparison above is worth."""
    goals, actions = reference["push-v3/goals"], reference["push-v3/actions"]
    found = rows_of("push-v3", goals[::-1], actions)
    assert np.abs(found[:, 0] - reference["push-v3/rows"]).max() > 0.01


def test_copies_go_on_by_themselves() -> None:
    env = mw.MetaWorldML1(2, task="pick-place-v3")
    env.set_task(env.sample_tasks(1, np.random.default_rng(0))[0])
    env.reset(seed=0)
    for action in map(random_action, range(30)):
        observations, *_ = env.step(np.stack([action, -action]))
    assert np.abs(observations[0] - observations[1]).max() > 0.01


def test_tolerance_is_the_packages() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        x, low, size = (float(value) for value in rng.normal(size=3))
        margin, bounds = abs(float(rng.normal())), (low, low + abs(size))
        for sigmoid in ("long_tail", "gaussian", "reciprocal"):
            for given in (x, np.float64(x)):
                found = speed.tolerance(given, bounds, margin, sigmoid)
                assert found == speed._tolerance(given, bounds, margin, sigmoid)
    assert speed.tolerance(0.5, (0.0, 1.0)) == 1.0
    with pytest.raises(ValueError, match="Lower bound"):
        speed.tolerance(0.5, (1.0, 0.0), 1.0, "long_tail")


def test_quaternions_are_scipys() -> None:
    rng = np.random.default_rng(1)
    for numbers in (*rng.normal(size=(200, 4)), *np.eye(4)):
        matrix = Rotation.from_quat(numbers).as_matrix()
        expected = Rotation.from_matrix(matrix).as_quat()
        np.testing.assert_array_equal(speed.Quaternion.from_matrix(matrix).as_quat(), expected)


def test_norm_and_clip_are_numpys() -> None:
    rng = np.random.default_rng(2)
    for vector in rng.normal(size=(200, 3)):
        assert speed.norm(vector) == np.linalg.norm(vector)
        x, low, size = vector.tolist()
        assert speed.clip(x, low, low + abs(size)) == np.clip(x, low, low + abs(size))
    matrix = rng.normal(size=(2, 3))
    assert speed.norm(matrix) == np.linalg.norm(matrix)
    np.testing.assert_array_equal(speed.norm(matrix, axis=1), np.linalg.norm(matrix, axis=1))
    np.testing.assert_array_equal(speed.clip(matrix, 0.0, 0.5), np.clip(matrix, 0.0, 0.5))
    assert math.isnan(speed.clip(math.nan, 0.0, 1.0))
    module = importlib.import_module("metaworld.envs.sawyer_push_v3")
    assert vars(module)["np"].hypot is np.hypot
