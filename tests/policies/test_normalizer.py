"""Running statistics: merged in parts they are those of everything, and files that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import numpy_params, small_spec

from maml_rl.policies.normalizer import LIMIT, NORMALIZER, Moments, Normalizer, ObservationScale
from maml_rl.policies.policy_file import PolicyFileError, load_policy, save_policy

DATA = np.random.default_rng(0).normal([3.0, -1e4, 0.0], [2.0, 0.5, 0.0], (50, 3))


@pytest.mark.parametrize("cuts", [[], [1], [10, 10, 40], [0, 50]])
def test_moments_merged_in_parts_are_those_of_everything(cuts: list[int]) -> None:
    total = Moments.none(3)
    for part in np.split(DATA, cuts):
        total = total.merged(Moments.of(part))
    assert total.count == 50
    np.testing.assert_allclose(total.mean, DATA.mean(0), rtol=1e-12)
    np.testing.assert_allclose(total.variance, DATA.var(0), rtol=1e-9, atol=1e-12)


def test_small_deviations_of_large_numbers_survive_single_precision() -> None:
    data = (1e4 + np.random.default_rng(1).normal(size=(1000, 1))).astype(np.float32)
    assert Moments.of(data).variance[0] == pytest.approx(1, rel=0.1)


def test_observations_are_in_units_of_their_deviation() -> None:
    scale = ObservationScale(Normalizer(Moments.of(DATA)))
    found = scale(DATA.astype(np.float32))
    np.testing.assert_allclose(found[:, :1].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found[:, :1].std(0), 1, atol=1e-4)
    assert (found[:, 2] == 0).all(), "what never moved is not blown up"
    far = DATA[:1].astype(np.float32) + 1e6
    assert (scale(far) == LIMIT).all()
    near = DATA[:5, :].astype(np.float32)
    np.testing.assert_allclose(scale.inverse(scale(near)), near, rtol=1e-5, atol=1e-3)


def test_nothing_is_changed_before_anything_was_seen_or_without_statistics() -> None:
    x = np.array([[1.0, -2.0, 0.5]], np.float32)
    fresh = Normalizer.fresh(3, observations=True, rewards=True)
    assert fresh is not None
    assert fresh.has_seen_nothing
    np.testing.assert_allclose(ObservationScale(fresh)(x), x)
    assert fresh.reward_scale == pytest.approx(1)
    assert ObservationScale(None)(x) is x
    assert ObservationScale(Normalizer(None, Moments.of(DATA[:, :1])))(x) is x
    assert Normalizer.fresh(3, observations=False, rewards=False) is None


def test_rewards_are_divided_by_the_deviation_of_returns() -> None:
    for unit in (1e-9, 1.0, 1e6):
        normalizer = Normalizer(None, Moments.of(unit * DATA[:, :1]))
        assert normalizer.reward_scale == pytest.approx(unit * DATA[:, 0].std(), rel=1e-3)


def test_each_part_is_merged_where_it_is_kept() -> None:
    both = Normalizer(Moments.of(DATA), Moments.of(DATA[:, :1]))
    only = Normalizer(Moments.none(3), None).merged([both, both])
    assert only.returns is None
    assert only.observations is not None
    assert only.observations.count == 100


def test_arrays_round_trip_and_incomplete_ones_are_refused() -> None:
    normalizer = Normalizer(Moments.of(DATA), Moments.of(DATA[:, :1]))
    arrays = normalizer.as_arrays()
    assert all(name.startswith(NORMALIZER) for name in arrays)
    again = Normalizer.from_arrays({**arrays, "mean.weight": np.zeros(2)})
    assert again is not None
    for name, value in again.as_arrays().items():
        np.testing.assert_array_equal(value, arrays[name])
    assert Normalizer.from_arrays({"mean.weight": np.zeros(2)}) is None
    del arrays[f"{NORMALIZER}observations.mean"]
    with pytest.raises(ValueError, match="statistics of observations are incomplete"):
        Normalizer.from_arrays(arrays)
    with pytest.raises(ValueError, match="unknown statistics: colours"):
        Normalizer.from_arrays({**normalizer.as_arrays(), f"{NORMALIZER}colours": np.zeros(1)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({}, None),
        ({"observations.mean": np.zeros(3)}, "do not fit the policy"),
        ({"observations.squares": np.array([1.0, np.nan])}, "must be finite"),
        ({"observations.squares": np.array([1.0, -1.0])}, "squares not negative"),
        ({"observations.count": np.zeros(2)}, "the count of observations has shape"),
        ({"colours": np.zeros(2)}, "unknown statistics: colours"),
    ],
)
def test_policy_files_hold_statistics(damage: dict[str, Any], message: str | None, tmp_path: Any) -> None:
    spec, path = small_spec(), tmp_path / "policy.safetensors"
    normalizer = Normalizer(Moments.of(DATA[:, :2]), Moments.of(DATA[:, :1]))
    arrays = normalizer.as_arrays() | {NORMALIZER + name: value for name, value in damage.items()}
    save_policy(path, spec, numpy_params(spec.init_params(0)) | arrays, {})
    if message is None:
        loaded = load_policy(path)
        assert set(loaded.params) == set(spec.shapes)
        assert set(loaded.meta_params()) == {*spec.shapes, *arrays}
        assert loaded.normalizer is not None
        np.testing.assert_array_equal(loaded.normalizer.scale[0], normalizer.scale[0])
        return
    with pytest.raises(PolicyFileError, match=message):
        load_policy(path)
