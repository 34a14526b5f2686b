"""A policy on disk: one file that is read back as it was, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maml_rl.policies.meta_params import INNER_LR
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy_file import (
    KIND,
    PRETRAINED,
    PolicyFileError,
    load_policy,
    policy_file_in,
    pretrained_policy,
    save_policy,
)
from maml_rl.tools.run_directory import RunDirectory, RunError
from maml_rl.tools.tensor_file import load_tensors, save_tensors

SPEC = MLP.gaussian(2, 2, hidden_sizes=(4,), activation="tanh", context_size=1)
PARAMS = {name: value.numpy() for name, value in SPEC.init_params(0).items()}
STEP_SIZES = {INNER_LR + name: np.full_like(value, 0.1) for name, value in PARAMS.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_policy(tmp_path / "policy.safetensors", SPEC, PARAMS, {"env": "maml_rl/PointNav-v0"})
    return tmp_path / "policy.safetensors"


def test_round_trip_of_one_file(file: Path) -> None:
    loaded = load_policy(file)
    assert loaded.spec == SPEC
    assert loaded.info["env"] == "maml_rl/PointNav-v0"
    assert loaded.params.keys() == PARAMS.keys()
    for name, value in PARAMS.items():
        np.testing.assert_array_equal(loaded.params[name].numpy(), value)
    assert loaded.state == {}
    assert [path.name for path in file.parent.iterdir()] == ["policy.safetensors"]


def test_a_checkpoint_is_a_policy_with_more(file: Path) -> None:
    state = {
        "ppo/step/mean.bias": np.array(3, np.float32),
        "critic/value/mean": np.array([np.nan], np.float32),
    }
    save_policy(file, SPEC, PARAMS | STEP_SIZES, {}, state)
    loaded = load_policy(file)
    assert loaded.params.keys() == (PARAMS | STEP_SIZES).keys()
    assert loaded.state.keys() == state.keys()


def changed(file: Path, policy: dict[str, Any] | None = None, **tensors: np.ndarray | None) -> None:
    """With a right checksum: what somebody could write who knows the format."""
    content = load_tensors(file, KIND)
    arrays = {name: value for name, value in (content.tensors | tensors).items() if value is not None}
    info = content.info | ({"policy": content.info["policy"] | policy} if policy else {})
    save_tensors(file, KIND, arrays, info)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"observation_size": 3}, "do not fit"),
        ({"hidden_sizes": [5]}, "do not fit"),
        ({"hidden_sizes": [10**12]}, "do not fit"),
        ({"hidden_sizes": ["4"]}, "not a policy"),
        ({"hidden_sizes": 4}, "not a policy"),
        ({"hidden_sizes": [-4]}, "positive integers"),
        ({"observation_size": True}, "positive integers"),
        ({"context_size": -1}, "context_size is -1"),
        ({"activation": "os.system"}, "activation is 'os.system'"),
        ({"unknown": 1}, "not a policy"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(file: Path, policy: dict[str, Any], message: str) -> None:
    changed(file, policy)
    with pytest.raises(PolicyFileError, match=message):
        load_policy(file)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((2, 4), np.nan, np.float32), "must be finite numbers"),
        (np.full((2, 4), np.inf, np.float32), "must be finite numbers"),
        (np.zeros((2, 4)), "of type float32"),
        (np.zeros((2, 4), np.int32), "of type float32"),
        (np.zeros((4, 2), np.float32), "do not fit"),
        (None, "do not fit"),
    ],
)
def test_numbers_that_are_none_are_refused(file: Path, value: np.ndarray | None, message: str) -> None:
    changed(file, **{"mean.weight": value})
    with pytest.raises(PolicyFileError, match=message):
        load_policy(file)


def test_step_sizes_are_those_of_all_parameters(file: Path) -> None:
    changed(file, **{INNER_LR + "mean.bias": np.ones(2, np.float32)})
    with pytest.raises(PolicyFileError, match="do not fit"):
        load_policy(file)


def test_a_policy_of_the_first_version_is_told_apart(file: Path) -> None:
    file.with_suffix(".json").write_text("{}")
    with pytest.raises(PolicyFileError, match=r"a policy of version 0\.1"):
        load_policy(file)


def test_the_policies_that_come_with_the_package() -> None:
    presets = sorted(path.stem for path in PRETRAINED.iterdir())
    assert presets == [
        "ant-dir",
        "ant-vel",
        "half-cheetah-dir",
        "half-cheetah-vel",
        "metaworld-ml10",
        "point-nav",
    ]
    for preset in presets:
        assert load_policy(pretrained_policy(preset)).info["preset"] == preset
    for name in ("none", "../../policies/pretrained/point-nav", ""):
        with pytest.raises(PolicyFileError, match="there are: ant-dir, ant-vel"):
            pretrained_policy(name)


def test_a_run_directory_stands_for_its_policy(tmp_path: Path, file: Path) -> None:
    assert policy_file_in(file) == file
    run = RunDirectory.create(tmp_path / "run", {"config": {}})
    with pytest.raises(RunError, match="has not finished an iteration"):
        policy_file_in(run.path)
    file.rename(run.path / "policy.safetensors")
    assert policy_file_in(run.path) == run.path / "policy.safetensors"
