"""Inner loss, surrogate and KL against sums over single samples."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_params, random_samples, reference_policy, small_spec, valid_samples
from torch.autograd.functional import hessian, jacobian
from torch.distributions import kl_divergence

from maml_rl.learning.batch import Samples
from maml_rl.learning.losses import policy_gradient_loss, surrogate_and_kl
from maml_rl.learning.meta_learner import Params, stack_params
from maml_rl.policies.distributions import Categorical, Gaussian
from maml_rl.policies.mlp import MLP

SPEC = small_spec()
COUNTS = [4, 7]


def task_params(seed: int) -> list[Params]:
    return [random_params(SPEC, seed), random_params(SPEC, seed + 1)]


def stacked(params: list[Params]) -> Params:
    return {name: torch.stack([p[name] for p in params]) for name in params[0]}


def policies(samples: Samples, spec: MLP = SPEC) -> tuple[Gaussian, Gaussian]:
    new, old = (spec(stacked(task_params(seed)), samples.observations) for seed in (0, 10))
    return new, old


def test_inner_loss_by_brute_force() -> None:
    samples = random_samples(SPEC, COUNTS)
    loss = policy_gradient_loss(policies(samples)[0], samples)
    for task, params in enumerate(task_params(0)):
        observations, actions, advantages = valid_samples(samples, task)
        total = 0.0
        for o, a, advantage in zip(observations, actions, advantages, strict=True):
            total += float(reference_policy(SPEC, params, o).log_prob(a)) * float(advantage)
        assert float(loss[task]) == pytest.approx(-total / COUNTS[task])


def test_surrogate_and_kl_by_brute_force() -> None:
    samples = random_samples(SPEC, COUNTS)
    surrogate, kl = surrogate_and_kl(*policies(samples), samples)
    for task, (params, old_params) in enumerate(zip(task_params(0), task_params(10), strict=True)):
        observations, actions, advantages = valid_samples(samples, task)
        loss_total = kl_total = 0.0
        for o, a, advantage in zip(observations, actions, advantages, strict=True):
            new, old = reference_policy(SPEC, params, o), reference_policy(SPEC, old_params, o)
            loss_total -= math.exp(float(new.log_prob(a) - old.log_prob(a))) * float(advantage)
            kl_total += float(kl_divergence(old, new))
        assert float(surrogate[task]) == pytest.approx(loss_total / COUNTS[task])
        assert float(kl[task]) == pytest.approx(kl_total / COUNTS[task])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_old_policy_surrogate_is_minus_the_mean_advantage_and_kl_is_zero(dtype: torch.dtype) -> None:
    samples = random_samples(SPEC, COUNTS, dtype=dtype)
    params = stack_params(random_params(SPEC, dtype=dtype), 2)
    policy = SPEC(params, samples.observations)
    surrogate, kl = surrogate_and_kl(policy, policy.detach(), samples)
    means = torch.stack([valid_samples(samples, task)[2].mean() for task in range(2)])
    torch.testing.assert_close(surrogate, -means)
    assert (kl == 0).all()


def test_surrogate_and_inner_loss_have_the_same_gradient_at_the_old_policy() -> None:
    # Both are the policy gradient there, whatever the formula: grad ratio = grad log pi.
    samples = random_samples(SPEC, COUNTS)
    params = {k: v.requires_grad_() for k, v in random_params(SPEC).items()}
    policy = SPEC(stack_params(params, 2), samples.observations)
    surrogate, _ = surrogate_and_kl(policy, policy.detach(), samples)
    inner = policy_gradient_loss(policy, samples)
    for x, y in zip(
        torch.autograd.grad(surrogate.sum(), list(params.values()), retain_graph=True),
        torch.autograd.grad(inner.sum(), list(params.values())),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def test_the_hessian_of_the_expected_return_is_that_of_the_likelihood_ratio() -> None:
    # One state whose every action is there with its probability: the loss is minus the expected return itself.
    logits = torch.tensor([0.3, -0.5, 1.2], dtype=torch.float64)
    gains = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    probabilities = logits.softmax(0)
    samples = Samples(
        torch.zeros(1, 3, 1, dtype=torch.float64),
        torch.arange(3, dtype=torch.float64).view(1, 3, 1),
        gains,
        probabilities[None],
    )
    ratio = samples._replace(old_log_probs=probabilities.log()[None])

    def expected_return(x: torch.Tensor) -> torch.Tensor:
        return (x.softmax(0) * gains[0]).sum()

    def loss(x: torch.Tensor, data: Samples) -> torch.Tensor:
        return policy_gradient_loss(Categorical(x.expand(1, 3, 3), (3,)), data)[0]

    for data in (samples, ratio):
        torch.testing.assert_close(
            jacobian(lambda x, data=data: -loss(x, data), logits), jacobian(expected_return, logits)
        )
    truth = hessian(expected_return, logits)
    torch.testing.assert_close(hessian(lambda x: -loss(x, ratio), logits), truth)
    assert not torch.allclose(hessian(lambda x: -loss(x, samples), logits), truth, rtol=0.1)


def test_kl_gradient_is_zero_at_the_old_policy_and_not_elsewhere() -> None:
    samples = random_samples(SPEC, COUNTS)
    params = {k: v.requires_grad_() for k, v in random_params(SPEC).items()}
    policy = SPEC(stack_params(params, 2), samples.observations)
    sizes = []
    for old in (policy.detach(), policies(samples)[1]):
        _, kl = surrogate_and_kl(policy, old, samples)
        gradient = torch.autograd.grad(kl.sum(), list(params.values()), retain_graph=True)
        sizes.append(max(float(g.abs().max()) for g in gradient))
    assert sizes[0] < 1e-14
    assert sizes[1] > 1e-2


def test_kl_is_old_to_new() -> None:
    samples = random_samples(SPEC, COUNTS)
    new, old = policies(samples)
    _, kl = surrogate_and_kl(new, old, samples)
    torch.testing.assert_close(kl, (old.kl(new) * samples.weights).sum(-1))
    assert not torch.allclose(kl, (new.kl(old) * samples.weights).sum(-1), rtol=1e-2)


def test_known_answers_of_one_sample() -> None:
    # N(1, 1) against N(0, 1) at a = 1 with A = 2: log density -log(2 pi) / 2, ratio exp(1/2), KL 1/2.
    one = torch.ones(1, 1, 1)
    samples = Samples(one, one, 2 * torch.ones(1, 1), torch.ones(1, 1))
    new, old = Gaussian(one, torch.zeros(1, 1)), Gaussian(0 * one, torch.zeros(1, 1))
    assert float(policy_gradient_loss(new, samples)) == pytest.approx(math.log(2 * math.pi))
    ratio = samples._replace(old_log_probs=old.log_prob(one))
    assert float(policy_gradient_loss(new, ratio)) == pytest.approx(-2 * math.exp(0.5))
    surrogate, kl = surrogate_and_kl(new, old, samples)
    assert float(surrogate) == pytest.approx(-2 * math.exp(0.5))
    assert float(kl) == pytest.approx(0.5)


def test_a_tasks_losses_depend_on_its_own_data_only() -> None:
    samples = random_samples(SPEC, COUNTS)
    actions = samples.actions.clone()
    actions[1] += 1
    other = samples._replace(actions=actions)
    new, old = policies(samples)
    for before, after in zip(
        (policy_gradient_loss(new, samples), surrogate_and_kl(new, old, samples)[0]),
        (policy_gradient_loss(new, other), surrogate_and_kl(new, old, other)[0]),
        strict=True,
    ):
        assert before[0] == after[0]
        assert before[1] != after[1]
