"""Tensors in one file: whole, checked, and never a pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from maml_rl.tools.tensor_file import TensorFileError, load_tensors, save_tensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.float32(7),  # an optimiser's step count has no dimension
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "bytes": np.array([1, 255], np.uint8),
    "empty": np.zeros((0, 2), np.float32),
}
INFO = {"env": "maml_rl/PointNav-v0", "iteration": 3, "nested": {"a": [1, None]}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_tensors(tmp_path / "file.safetensors", "policy", TENSORS, INFO)
    return tmp_path / "file.safetensors"


def test_round_trip(file: Path) -> None:
    loaded = load_tensors(file, "policy")
    assert loaded.info == INFO
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        found = loaded.tensors[name]
        assert (found.shape, found.dtype) == (np.shape(value), np.asarray(value).dtype)
        np.testing.assert_array_equal(found, value)


def test_the_same_content_is_the_same_file(file: Path, tmp_path: Path) -> None:
    save_tensors(tmp_path / "again", "policy", TENSORS, INFO)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    assert load_tensors(tmp_path / "again", "policy").sha256 == load_tensors(file, "policy").sha256


def metadata(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["maml_rl"])
    return header


def rewritten(file: Path, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> None:
    """The file as somebody would change it by hand: the checksum stays."""
    header = json.dumps(metadata(file) | changes)
    file.write_bytes(save(tensors or load(file.read_bytes()), metadata={"maml_rl": header}))


def test_rewriting_alone_is_no_damage(file: Path) -> None:
    rewritten(file)
    load_tensors(file, "policy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"info": json.dumps(INFO | {"env": "os:system"})}, "checksum"),
        ({"sha256": "0" * 64}, "checksum"),
        ({"kind": "model"}, "'model'"),
        ({"format": 1}, "format 1"),
        ({"format": None}, "format None"),
        ({"info": None}, "not a policy"),
        ({"tensors": TENSORS | {"a": TENSORS["a"] + 1}}, "checksum"),
        ({"tensors": {name: value for name, value in TENSORS.items() if name != "a"}}, "checksum"),
        ({"tensors": TENSORS | {"b": TENSORS["a"]}}, "checksum"),
        ({"tensors": TENSORS | {"a": TENSORS["a"].reshape(3, 2)}}, "checksum"),
        ({"tensors": TENSORS | {"a": TENSORS["a"].view(np.int32)}}, "checksum"),
    ],
)
def test_what_was_changed_is_refused(file: Path, changes: dict[str, Any], message: str) -> None:
    if "tensors" in changes:
        changes = changes | {
            "tensors": {name: np.asarray(value, order="C") for name, value in changes["tensors"].items()}
        }
    rewritten(file, **changes)
    with pytest.raises(TensorFileError, match=message) as error:
        load_tensors(file, "policy")
    assert str(file) in str(error.value)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_what_is_cut_off_is_refused(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(TensorFileError, match="truncated, or not a policy"):
        load_tensors(file, "policy")


def test_a_pickle_is_never_loaded(file: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (file.with_name("exploded"),))

    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TensorFileError):
        load_tensors(file, "policy")
    assert not file.with_name("exploded").exists()


@pytest.mark.parametrize("header", ["[]", "3", "{", "[" * 100_000, None])
def test_foreign_headers_are_refused(file: Path, header: str | None) -> None:
    file.write_bytes(save({"a": TENSORS["a"]}, metadata=None if header is None else {"maml_rl": header}))
    with pytest.raises(TensorFileError, match="not a policy"):
        load_tensors(file, "policy")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(TensorFileError, match="cannot be read"):
            load_tensors(path, "policy")


def test_info_is_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        save_tensors(tmp_path / "file", "policy", {}, {"loss": float("nan")})
    assert not (tmp_path / "file").exists()
