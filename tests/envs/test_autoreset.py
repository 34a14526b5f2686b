"""What happens to a copy whose episode has ended, by autoreset mode."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from point_helpers import moves, started

from maml_rl.envs import PointNav


def test_disabled_autoreset_leaves_a_finished_copy_standing() -> None:
    env = started(2, goal=(0.1, 0.0), max_episode_steps=4)
    observations, rewards, terminated, _, _ = env.step(moves((0.1, 0), (0, 0.1)))
    np.testing.assert_array_equal(terminated, [True, False])
    for _ in range(3):
        observations, rewards, terminated, truncated, _ = env.step(moves((0.1, 0.1), (0, 0.1)))
        np.testing.assert_allclose(observations[0], [0.1, 0])
        assert rewards[0] == 0
        np.testing.assert_array_equal(terminated, [True, False])
        assert not truncated[0]
    assert truncated[1]
    np.testing.assert_allclose(observations[1], [0, 0.4], rtol=1e-6)
    assert rewards[1] != 0


def test_disabled_autoreset_starts_anew_only_on_reset() -> None:
    env = started(1, max_episode_steps=2)
    for _ in range(3):
        *_, truncated, _ = env.step(moves((0.1, 0)))
    assert truncated[0]
    observations, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observations, [[0, 0]])
    *_, truncated, _ = env.step(moves((0.1, 0)))
    assert not truncated[0]


def test_next_step_autoreset_resets_one_step_later_and_ignores_that_action() -> None:
    env = started(2, goal=(0.1, 0.0), max_episode_steps=10, autoreset_mode=AutoresetMode.NEXT_STEP)
    observations, _, terminated, _, _ = env.step(moves((0.1, 0), (0, 0.1)))
    np.testing.assert_array_equal(terminated, [True, False])
    np.testing.assert_allclose(observations[0], [0.1, 0])  # the last observation of the episode

    observations, rewards, terminated, truncated, _ = env.step(moves((-0.1, 0), (0, 0.1)))
    np.testing.assert_allclose(observations, [[0, 0], [0, 0.2]], rtol=1e-6)
    assert rewards[0] == 0
    assert not terminated.any()
    assert not truncated.any()

    observations, rewards, *_ = env.step(moves((-0.1, 0), (0, 0.1)))
    np.testing.assert_allclose(observations, [[-0.1, 0], [0, 0.3]], rtol=1e-6)
    assert rewards[0] == pytest.approx(-0.2)


def test_next_step_autoreset_counts_each_episode_from_its_own_start() -> None:
    env = started(1, max_episode_steps=2, autoreset_mode="NextStep")
    ends = [bool(env.step(moves((0, 0)))[3][0]) for _ in range(6)]
    # Two steps, one that resets, two steps, one that resets.
    assert ends == [False, True, False, False, True, False]


def test_same_step_autoreset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode is 'SameStep'; allowed: NextStep, Disabled"):
        PointNav(1, autoreset_mode=AutoresetMode.SAME_STEP)
