"""What every task family inherits: masks, seeds, refused calls."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers import ToyEnv
from point_helpers import moves, started

from maml_rl.envs import PointNav

# --- bad calls


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"PointNav.step was called before reset"):
        PointNav(1).step(moves((0, 0)))


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1), (2, 3)])
def test_actions_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"actions have shape .*they must be \(2, 2\)"):
        started(2).step(np.zeros(shape, np.float32))


def test_the_wrong_number_of_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="3 seeds were given for 2 copies"):
        started(2).reset(seed=[1, 2, 3])


def toy(num_envs: int, seed: int | list[int | None], **kwargs: Any) -> tuple[ToyEnv, np.ndarray]:
    env = ToyEnv(num_envs, **kwargs)
    env.set_task(np.array(0.5))
    return env, env.reset(seed=seed)[0]


# --- masks and seeds, with random starts and random dynamics


def test_reset_mask_resets_only_the_marked_copies() -> None:
    env = started(3)
    env.step(moves((0.1, 0), (0, 0.1), (0.1, 0.1)))
    observations, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_allclose(observations, [[0.1, 0], [0, 0], [0.1, 0.1]])


def test_reset_mask_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reset_mask has shape \(2,\); it must be \(3,\)"):
        started(3).reset(options={"reset_mask": np.array([True, False])})


def test_reset_mask_restarts_the_clock_of_the_marked_copies_only() -> None:
    env = started(2, max_episode_steps=2)
    env.step(moves((0, 0), (0, 0)))
    env.reset(options={"reset_mask": np.array([True, False])})
    *_, truncated, _ = env.step(moves((0, 0), (0, 0)))
    np.testing.assert_array_equal(truncated, [False, True])


def test_reset_mask_with_a_seed_reseeds_the_marked_copies_only() -> None:
    plain, _ = toy(2, seed=0)
    masked, _ = toy(2, seed=0)
    masked.reset(seed=99, options={"reset_mask": np.array([True, False])})
    actions = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(masked.step(actions)[0][1], plain.step(actions)[0][1])


def test_equal_seeds_give_equal_episodes() -> None:
    (a, first), (b, second) = toy(3, seed=7), toy(3, seed=7)
    np.testing.assert_array_equal(first, second)
    actions = np.ones((3, 2), np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(a.step(actions)[0], b.step(actions)[0])
    assert not np.array_equal(first, toy(3, seed=8)[1])


def test_a_seed_means_the_same_on_the_first_reset_and_on_later_ones() -> None:
    # Without a task the first reset draws one; that must not use up the copies' own randomness.
    env = ToyEnv(2)
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)


def test_without_a_seed_the_streams_go_on() -> None:
    env, first = toy(2, seed=0)
    second, _ = env.reset()
    assert not np.array_equal(first, second)
    other, _ = toy(2, seed=0)
    np.testing.assert_array_equal(second, other.reset()[0])


def test_copies_are_seeded_by_seed_plus_index_or_one_by_one() -> None:
    np.testing.assert_array_equal(toy(3, seed=5)[1], toy(3, seed=[5, 6, 7])[1])
    assert len(np.unique(toy(3, seed=5)[1], axis=0)) == 3


@pytest.mark.parametrize("mode", ["Disabled", "NextStep"])
def test_a_batch_of_copies_equals_single_runs(mode: str) -> None:
    lifetimes = [2, 5, 99]
    actions = np.random.default_rng(0).uniform(0, 1, (9, 3, 2)).astype(np.float32)
    batch, start = toy(3, seed=5, lifetimes=lifetimes, max_episode_steps=4, autoreset_mode=mode)
    results = [(start, None, None, None), *(batch.step(a)[:4] for a in actions)]
    for k, lifetime in enumerate(lifetimes):
        single, start = toy(1, seed=5 + k, lifetimes=[lifetime], max_episode_steps=4, autoreset_mode=mode)
        alone = [(start, None, None, None), *(single.step(a[k : k + 1])[:4] for a in actions)]
        for together, apart in zip(results, alone, strict=True):
            for x, y in zip(together, apart, strict=True):
                if x is not None and y is not None:
                    np.testing.assert_array_equal(x[k], y[0])


def test_a_batch_of_points_equals_single_runs() -> None:
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (8, 4, 2)).astype(np.float32)
    batch = started(4, goal=(0.1, 0.1))
    singles = [started(1, goal=(0.1, 0.1)) for _ in range(4)]
    for a in actions:
        together = batch.step(a)[:4]
        for k, single in enumerate(singles):
            for x, y in zip(together, single.step(a[k : k + 1])[:4], strict=True):
                np.testing.assert_array_equal(x[k], y[0])
