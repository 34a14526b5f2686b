"""The critic of a policy with memory: it remembers, whole episodes at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maml_rl.learning.critic import Critic
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.heads import GaussianHead
from maml_rl.policies.network_policy import NetworkPolicy

SIZE = 2
REMEMBERING = NetworkPolicy(SIZE, GaussianHead(3, 1.0), (3,), recurrent_cell="gru", recurrent_size=4)
MEMORYLESS = NetworkPolicy(SIZE, GaussianHead(3, 1.0), (3,))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cued_episodes(seed: int, count: int = 200, horizon: int = 12) -> Trajectories:
    """Every reward of an episode is the first number that was seen in it; later observations say nothing."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((count, horizon, SIZE)).astype(np.float32)
    lengths = rng.integers(horizon // 2, horizon + 1, count)
    valid = np.arange(horizon) < lengths[:, None]
    rewards = np.repeat(observations[:, :1, 0], horizon, axis=1)
    actions = np.zeros((count, horizon, 3), np.float32)
    return Trajectories(observations * valid[..., None], actions, rewards * valid, lengths)


def critic(spec: NetworkPolicy = REMEMBERING) -> Critic:
    return Critic(spec, horizon=12, gamma=0.9, gae_lambda=0.8, seed=0)


def test_a_recurrent_policys_critic_remembers_what_was_seen() -> None:
    judges = critic(), critic(MEMORYLESS)
    for i in range(25):
        data = cued_episodes(i)
        explained, unexplained = (judge.judge(data, generator(i))[1] for judge in judges)
    assert explained > 0.6
    assert unexplained < 0.3  # negative control


def test_a_remembered_value_depends_on_no_later_observation_and_on_no_other_episode() -> None:
    value = critic()._value
    value.fit_scale(torch.randn(50, SIZE + 1, generator=generator()))
    observations = torch.randn(2, 12, SIZE, generator=generator())
    before = value(value.inputs(observations))
    changed = observations.clone()
    changed[0, 7] += 1.0
    after = value(value.inputs(changed))
    assert torch.equal(before[0, :7], after[0, :7])
    assert (before[0, 7:] != after[0, 7:]).all()
    assert torch.equal(before[1], after[1])


def test_what_fills_up_short_episodes_is_not_learned_from() -> None:
    data = cued_episodes(1)
    longer = replace(
        data,
        **{
            name: np.pad(getattr(data, name), [(0, 0), (0, 3), (0, 0)][: getattr(data, name).ndim])
            for name in ("observations", "actions", "rewards")
        },
    )
    judges = critic(), critic()
    found = [judge.judge(d, generator(3)) for judge, d in zip(judges, (data, longer), strict=True)]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)
    for name, array in judges[0].state().items():
        np.testing.assert_allclose(array, judges[1].state()[name], atol=1e-4, err_msg=name)


def test_a_remembering_critic_goes_on_from_its_state() -> None:
    whole, first, second = critic(), critic(), critic()
    for i in range(2):
        whole.judge(cued_episodes(i), generator(i))
    first.judge(cued_episodes(0), generator(0))
    second.set_state(first.state())
    second.judge(cued_episodes(1), generator(1))
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, second.state()[name], err_msg=name)
