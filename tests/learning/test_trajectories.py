"""Trajectories of tasks whose episodes differ in length, and what no update can be made of."""

from __future__ import annotations

import numpy as np
import pytest

from maml_rl.learning.trajectories import LARGEST_ACTION, Trajectories, padded, pool


def test_tasks_of_other_lengths_are_padded_to_the_longest() -> None:
    short, long = (trajectories_of(steps) for steps in (2, 5))
    arrays = padded([short, long])
    assert [x.shape for x in arrays["observations"]] == [(3, 5, 2)] * 2
    np.testing.assert_array_equal(arrays["rewards"][0], [[1, 1, 0, 0, 0]] * 3)
    np.testing.assert_array_equal(arrays["observations"][0][:, :2], short.observations)
    assert not arrays["actions"][0][:, 2:].any()
    together = pool([short, long])
    assert together.rewards.shape == (6, 5)
    assert together.lengths.tolist() == [2, 2, 2, 5, 5, 5]


def trajectories_of(steps: int) -> Trajectories:
    ones = np.ones((3, steps, 2), np.float32)
    return Trajectories(ones, 2 * ones, ones[..., 0], np.full(3, steps))


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_policy_far_outside_the_box_has_diverged_and_has_no_return(sign: int) -> None:
    data = trajectories_of(4)
    assert data.fault() is None
    assert data.mean_return == 4
    data.actions[1, 2, 0] = sign * LARGEST_ACTION
    assert data.fault() is None
    data.actions[1, 2, 0] = sign * LARGEST_ACTION * 1.01
    assert data.fault() == "actions lie 1e+06 times outside the action box"
    assert np.isnan(data.mean_return)
