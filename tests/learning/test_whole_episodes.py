"""Recurrent policies learn from whole episodes: gradient, products and PPO against loops over single episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers import flat, random_params, relative_error, small_spec
from meta_update_helpers import INNER, SETTINGS, Objective, ppo_update
from torch import Tensor

from maml_rl.learning.batch import Samples, arrange, make_samples
from maml_rl.learning.losses import clipped_surrogate_and_kl
from maml_rl.learning.meta_learner import Params
from maml_rl.learning.meta_update import MetaObjective, MetaUpdateSettings, meta_update
from maml_rl.learning.ppo import PPO, PPOSettings
from maml_rl.learning.task_sums import TaskSums
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.heads import CategoricalHead
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.policy import to_blocks

GRU = small_spec(NetworkPolicy, recurrent_cell="gru", recurrent_size=4, hidden_sizes=(3,))
LSTM = small_spec(
    NetworkPolicy, recurrent_cell="lstm", recurrent_size=3, hidden_sizes=(), head=CategoricalHead((3,))
)
POLICIES = {"gru": GRU, "lstm": LSTM}
LENGTHS = [[4, 2], [3, 4], [1, 4]]
"""Steps of each episode of each task."""


def whole(policy: NetworkPolicy, seed: int, dtype: torch.dtype = torch.float64) -> Samples:
    """Random episodes; the padding holds large numbers that must never count."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(4) < torch.tensor(LENGTHS)[..., None]
    tasks, episodes, steps = mask.shape

    def normal(*last: int) -> Tensor:
        return torch.randn((tasks, episodes, steps, *last), generator=generator, dtype=dtype)

    actions = normal(policy.action_size)
    if isinstance(policy.head, CategoricalHead):
        actions = (actions.sigmoid() * 3).floor()
    samples = arrange(normal(policy.observation_size), actions, normal(), mask, policy)
    return samples._replace(
        observations=torch.where(mask[..., None], samples.observations, 9.0),
        advantages=torch.where(mask, samples.advantages, 7.0),
    )


def each_step(policy: NetworkPolicy, params: Params, samples: Samples, task: int) -> list[tuple]:
    """Distribution, action and advantage of every valid step, from episodes without padding, one at a time."""
    found = []
    for episode, length in enumerate(LENGTHS[task]):
        observations = samples.observations[task, episode, :length][None, None]
        distribution = policy({name: value[None] for name, value in params.items()}, observations)
        found.append(
            (distribution, samples.actions[task, episode, :length], samples.advantages[task, episode])
        )
    return found


def plain_objective(
    policy: NetworkPolicy,
    theta: Params,
    old_theta: Params,
    pre: Sequence[Samples],
    post: Samples,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    losses, kls = [], []
    for task, lengths in enumerate(LENGTHS):
        adapted = []
        for params in (theta, old_theta):
            own = {n: v if v.requires_grad else v.clone().requires_grad_() for n, v in params.items()}
            for samples in pre:
                loss = -sum(
                    (p.log_prob(a[None, None])[0, 0] * adv[: len(a)]).sum()
                    for p, a, adv in each_step(policy, own, samples, task)
                ) / sum(lengths)
                steps = torch.autograd.grad(loss, list(own.values()), create_graph=True)
                own = {n: v - alpha * g for (n, v), g in zip(own.items(), steps, strict=True)}
            adapted.append(each_step(policy, own, post, task))
        loss, kl = torch.zeros(()).double(), torch.zeros(()).double()
        for (new, a, adv), (old, _, _) in zip(*adapted, strict=True):
            ratio = (new.log_prob(a[None, None]) - old.detach().log_prob(a[None, None])).exp()[0, 0]
            loss = loss - (ratio * adv[: len(a)]).sum() / sum(lengths)
            kl = kl + old.detach().kl(new).sum() / sum(lengths)
        losses.append(loss)
        kls.append(kl)
    return torch.stack(losses).mean(), torch.stack(kls).mean()


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("steps", [1, 2])
def test_gradient_and_product_are_those_of_single_episodes(kind: str, steps: int, hvp: str) -> None:
    policy = POLICIES[kind]
    theta = random_params(policy)
    pre, post = [whole(policy, 1 + i) for i in range(steps)], whole(policy, 9)
    settings = MetaUpdateSettings(hvp=hvp, hvp_step=1e-4, cg_damping=0.0)
    objective = Objective(policy, theta, pre, post, INNER, settings)
    gradient, product = objective.linearize()
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    loss, kl = plain_objective(policy, leaves, theta, pre, post, 0.3)
    expected = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    assert relative_error([gradient], [flat(expected)]) < 1e-10
    assert objective.loss_before == pytest.approx(float(loss.detach()))
    v = torch.randn(len(gradient), dtype=torch.double, generator=torch.Generator().manual_seed(4))
    first = torch.autograd.grad(kl, list(leaves.values()), create_graph=True)
    hessian = torch.autograd.grad(flat(first).dot(v), list(leaves.values()), materialize_grads=True)
    assert relative_error([product(v)], [flat(hessian)]) < (1e-10 if hvp == "exact" else 1e-6)
    moved = objective.start + 0.01 * v
    found = objective.loss_and_kl(moved)
    at = plain_objective(policy, objective.meta_params(moved), theta, pre, post, 0.3)
    assert found == pytest.approx([float(x.detach()) for x in at])
    assert list(objective.meta_params(objective.start)) == list(policy.shapes)
    assert len(to_blocks(policy, theta)) == len(policy.shapes)


@pytest.mark.parametrize("kind", POLICIES)
def test_an_update_lowers_the_loss_within_the_trust_region(kind: str) -> None:
    policy = POLICIES[kind]
    theta = random_params(policy)
    new, step = meta_update(policy, theta, [whole(policy, 1)], whole(policy, 9), INNER, SETTINGS)
    assert step.accepted
    assert step.loss_after < step.loss_before
    assert step.kl <= 0.01
    assert any(not torch.equal(new[name], theta[name]) for name in theta)


def test_parts_are_parts_of_whole_episodes() -> None:
    samples = whole(GRU, 1)
    two = samples.tasks(1, 3)
    assert two.weights.shape == (2, 2, 4)
    assert samples.tasks(0, 1)._replace(weights=samples.weights[:1]).weights.shape == (1, 2, 4)
    short = samples._replace(weights=samples.weights * (torch.arange(4) < 2))
    assert short.tasks(0, 2).observations.shape[:3] == (2, 2, 2)
    chosen = samples.select(torch.tensor([1]))
    assert chosen.weights.shape == (3, 1, 4)
    torch.testing.assert_close(chosen.weights.sum((1, 2)), torch.ones(3).double())
    assert samples.thinned(0.5).weights.shape == (3, 1, 4)


def test_tasks_merged_into_one_count_alike() -> None:
    samples = whole(GRU, 1)
    merged = samples.merged()
    assert merged.weights.shape == (1, 6, 4)
    torch.testing.assert_close(merged.weights.sum(), torch.ones(()).double())
    torch.testing.assert_close(merged.weights[0, :2].sum(), torch.tensor(1 / 3).double())
    torch.testing.assert_close(merged.observations[0, 2:4], samples.observations[1])


def test_ppo_takes_whole_episodes() -> None:
    """Minibatches of one task are episodes: with every episode in each, the gradient is that of the batch."""
    policy = GRU
    theta = random_params(policy)
    post = whole(policy, 9).merged()
    settings = PPOSettings(num_epochs=1, minibatch_size=10**6, lr=1e-3)
    loss = clipped_surrogate_and_kl(0.2, 0.01)
    objective = MetaObjective(TaskSums(policy, theta, [], post, INNER, outer_loss=loss))
    new, step = ppo_update(PPO(theta, settings), objective, theta, torch.Generator().manual_seed(0))
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    distribution = policy({name: value[None] for name, value in leaves.items()}, post.observations)
    loss(distribution, distribution.detach(), post)[0].mean().backward()
    for name, value in leaves.items():
        assert value.grad is not None
        moved = new[name] - theta[name]
        large = value.grad.abs() > 1e-3
        assert (torch.sign(moved[large]) == -torch.sign(value.grad[large])).all(), name
    assert step.accepted


def test_samples_of_a_recurrent_policy_keep_their_episodes() -> None:
    rng = np.random.default_rng(0)
    data = [
        Trajectories(
            rng.normal(size=(2, 4, 2)).astype(np.float32),
            rng.normal(size=(2, 4, 3)).astype(np.float32),
            rng.normal(size=(2, 4)).astype(np.float32),
            np.array(lengths),
        )
        for lengths in LENGTHS
    ]
    kept = make_samples(data, GRU, gamma=0.9, gae_lambda=0.8)
    packed = make_samples(data, gamma=0.9, gae_lambda=0.8)
    assert kept.observations.shape == (3, 2, 4, 2)
    for task, lengths in enumerate(LENGTHS):
        valid = kept.weights[task] != 0
        assert valid.sum(-1).tolist() == lengths
        count = sum(lengths)
        torch.testing.assert_close(kept.advantages[task][valid], packed.advantages[task, :count])
        torch.testing.assert_close(kept.weights[task][valid], packed.weights[task, :count])
