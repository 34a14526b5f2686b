"""Normalised observations, discrete actions and memory help to learn; what they need taken away, they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from paths import ROOT
from user_envs import FarNav

from maml_rl import MAMLConfig
from maml_rl.rllib.learner_share import NonFiniteError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def returns(config: MAMLConfig, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Before and after adaptation, of each iteration."""
    algo = config.debugging(seed=1).build_algo()
    try:
        results = [algo.train() for _ in range(iterations)]
    finally:
        algo.stop()
    return np.array([r["return_pre"] for r in results]), np.array([r["return_post"] for r in results])


def navigation(scale: float, **fields: Any) -> MAMLConfig:
    config = MAMLConfig().environment(FarNav, env_config={"scale": scale})
    return config.training(horizon=20, episodes_per_task=10, gae_lambda=0.8, hidden_sizes=(32,), **fields)


def test_normalised_observations_of_any_scale_learn_as_well_as_unscaled_ones() -> None:
    _, small = returns(navigation(1.0, normalize_observations=True), 12)
    _, large = returns(navigation(1e4, normalize_observations=True), 12)
    np.testing.assert_allclose(large, small, atol=0.7)
    assert large[-3:].mean() > large[:3].mean() + 2
    with pytest.raises(NonFiniteError, match="times outside the action box"):
        returns(navigation(1e4), 12)


def test_small_rewards_learn_with_normalised_rewards() -> None:
    """Of rewards of 1e-9 the smallest allowed deviation of advantages takes a part."""
    _, plain = returns(navigation(1.0), 2)
    tiny = navigation(1.0).environment(env_config={"scale": 1.0, "unit": 1e-9})
    _, with_unit = returns(tiny.copy(copy_frozen=False).training(normalize_rewards=True), 2)
    _, without = returns(tiny, 2)
    np.testing.assert_allclose(with_unit * 1e9, plain, rtol=1e-3)
    assert not np.allclose(without * 1e9, plain, rtol=1e-2)


def bandit(**env_config: Any) -> MAMLConfig:
    config = MAMLConfig().environment("maml_rl/Bandit-v0", env_config={"arms": 2, **env_config})
    return config.training(
        inner_steps=0,
        outer_update="ppo",
        lr=0.01,
        minibatch_size=2000,
        recurrent="gru",
        recurrent_size=16,
        hidden_sizes=(8,),
        activation="tanh",
        meta_batch_size=20,
        episodes_per_task=10,
        horizon=20,
        gae_lambda=0.3,
    )


def test_a_policy_that_is_told_what_it_did_learns_to_find_the_better_arm() -> None:
    """Of two arms with uniform probabilities the better one pays 2/3 of the time; guessing pays 1/2."""
    _, told = returns(bandit(trial_episodes=1), 25)
    assert told[:3].mean() < 11
    assert told[-5:].mean() > 11.8
    _, untold = returns(bandit(), 25)
    assert untold[-5:].mean() < 11


def test_one_gradient_step_on_discrete_actions_finds_better_arms() -> None:
    config = MAMLConfig().environment("maml_rl/Bandit-v0", env_config={"arms": 5})
    before, after = returns(config.training(inner_lr=2.0, horizon=30, gae_lambda=0.0, hidden_sizes=(8,)), 8)
    assert before.mean() == pytest.approx(15, abs=1)
    assert after[-3:].mean() > 19
    _, unchanged = returns(config.copy(copy_frozen=False).training(inner_lr=1e-9), 2)
    assert unchanged.mean() < 17


def test_the_network_of_the_guide_is_one() -> None:
    text = (ROOT / "docs" / "guide" / "policies.md").read_text()
    example = text.partition("**Your own network**")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    config: MAMLConfig = names["config"].training(horizon=5, meta_batch_size=2, episodes_per_task=2)
    algo = config.build_algo()
    algo.train()
    assert "units.weight" in algo.meta_params()
    algo.stop()
