"""What the meta-objective depends on and what not: phases, tasks, chunks, threads."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import (
    flat,
    meta_blocks,
    take_tasks,
    with_noise,
)
from meta_update_helpers import COUNTS, DOUBLE, Problem, direction, relative, trial_loss

from maml_rl.learning import task_tree
from maml_rl.learning.adaptation import adapt_in_chunks, adapt_policy
from maml_rl.learning.meta_update import meta_update

FIELDS = ["observations", "actions", "advantages"]


@pytest.mark.parametrize("field", FIELDS)
def test_noise_in_the_post_data_changes_loss_and_gradient(field: str) -> None:
    # Were the loss computed on pre-adaptation data, it would not.
    problem = Problem()
    noisy = with_noise(problem.post, field, [0, 1, 2])
    assert abs(trial_loss(problem, post=noisy) - trial_loss(problem)) > 1e-3
    assert relative(problem.objective(post=noisy).linearize()[0], problem.objective().linearize()[0]) > 1e-2


@pytest.mark.parametrize("field", FIELDS)
def test_noise_in_the_pre_data_changes_loss_and_gradient(field: str) -> None:
    problem = Problem()
    noisy = [with_noise(problem.pre[0], field, [0, 1, 2])]
    assert abs(trial_loss(problem, pre=noisy) - trial_loss(problem)) > 1e-4
    assert relative(problem.objective(pre=noisy).linearize()[0], problem.objective().linearize()[0]) > 1e-2


def test_pre_data_reach_the_gradient_through_the_second_order_term() -> None:
    # Data of opposite sign along a vanishing step: theta' is (almost) the same, its Jacobian is not.
    problem = Problem(inner_lr=1e-6)
    noisy = [with_noise(problem.pre[0], "actions", [0, 1, 2])]
    second = (problem.objective(pre=noisy).linearize()[0] - problem.objective().linearize()[0]) / 1e-6
    problem.inner = dataclasses.replace(problem.inner, first_order=True)
    first = (problem.objective(pre=noisy).linearize()[0] - problem.objective().linearize()[0]) / 1e-6
    # To first order in alpha both change by the moved theta'; the term H_i g exists in second order only.
    assert relative(second, first) > 0.1


def test_first_order_gradient_differs_from_second_order_and_equals_the_post_gradient() -> None:
    second, first = Problem(), Problem(first_order=True)
    gradients = [p.objective().linearize()[0] for p in (first, second)]
    assert relative(*gradients) > 0.05
    # The loss itself is the same function: only its gradient is approximated.
    assert trial_loss(first) == trial_loss(second)
    adapted = adapt_policy(first.spec, first.meta_params, first.pre, 0.3, first_order=True)
    leaves = {name: value.detach().requires_grad_() for name, value in adapted.items()}
    policy = first.spec(leaves, first.post.observations)
    loss = -((policy.log_prob(first.post.actions)) * first.post.advantages * first.post.weights).sum()
    post = torch.autograd.grad(loss, list(leaves.values()))
    mean = {name: g.mean(0) for name, g in zip(leaves, post, strict=True)}
    torch.testing.assert_close(gradients[0], flat(meta_blocks(first.spec, mean)))


@pytest.mark.parametrize("field", FIELDS)
def test_noise_in_another_tasks_pre_data_does_not_change_a_tasks_adapted_params(field: str) -> None:
    problem = Problem(steps=2)
    clean, noisy = (
        adapt_policy(problem.spec, problem.meta_params, pre, 0.3, first_order=True)
        for pre in (problem.pre, [with_noise(s, field, [1]) for s in problem.pre])
    )
    for name, value in clean.items():
        assert torch.equal(value[[0, 2]], noisy[name][[0, 2]])
        assert not torch.allclose(value[1], noisy[name][1])


def test_order_of_the_tasks_does_not_matter() -> None:
    problem, order = Problem(steps=2), [2, 0, 1]
    permuted = Problem(steps=2)
    permuted.pre = [take_tasks(s, order) for s in problem.pre]
    permuted.post = take_tasks(problem.post, order)
    assert trial_loss(permuted) == pytest.approx(trial_loss(problem), rel=1e-12)
    (gradient, product), (other, other_product) = (p.objective().linearize() for p in (problem, permuted))
    torch.testing.assert_close(other, gradient, rtol=1e-10, atol=1e-12)
    v = direction(gradient)
    torch.testing.assert_close(other_product(v), product(v), rtol=1e-10, atol=1e-12)


def test_pairing_of_pre_and_post_data_does_matter() -> None:
    # Negative control of the test above: permuting one phase alone pairs tasks with each other's data.
    problem = Problem(counts=[5, 5, 5])
    mixed = [take_tasks(problem.pre[0], [2, 0, 1])]
    assert abs(trial_loss(problem, pre=mixed) - trial_loss(problem)) > 1e-4


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_chunks_of_tasks_do_not_change_results(size: int, hvp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_tree, "SHARES", 1)
    problem = Problem(steps=2, hvp=hvp, learned=True)
    whole = problem.objective()
    gradient, product = whole.linearize()
    vector = whole.start + 0.1 * direction(whole.start)
    expected = [gradient, product(direction(gradient)), torch.tensor(whole.loss_and_kl(vector))]
    monkeypatch.setattr(task_tree, "SAMPLES_PER_CHUNK", size * max(COUNTS))
    parts = problem.objective()
    gradient, product = parts.linearize()
    actual = [gradient, product(direction(gradient)), torch.tensor(parts.loss_and_kl(vector))]
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_threads_over_chunks_do_not_change_a_single_bit(
    hvp: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of equal shape: threads that shared work arrays would overwrite each other's.
    monkeypatch.setattr(task_tree, "SAMPLES_PER_CHUNK", 1)
    problem = Problem(steps=2, hvp=hvp, dtype=dtype, counts=[40] * 8)
    data = problem.pre, problem.post
    arguments = (problem.spec, problem.meta_params, *data, problem.inner, problem.settings)
    alone, _ = meta_update(*arguments)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            threaded, _ = meta_update(*arguments, pool.map)
            for name, value in alone.items():
                assert torch.equal(threaded[name], value)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("learned", [False, True])
def test_adapting_in_chunks_is_adapting_all_at_once(
    size: int, learned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(steps=2, learned=learned)
    expected = adapt_policy(problem.spec, problem.meta_params, problem.pre, 0.3, first_order=True)
    monkeypatch.setattr(task_tree, "SHARES", 1)
    monkeypatch.setattr(task_tree, "SAMPLES_PER_CHUNK", size * max(COUNTS))
    adapted = adapt_in_chunks(problem.spec, problem.meta_params, problem.pre, 0.3)
    assert list(adapted) == list(expected)
    for name, value in adapted.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
        assert not value.requires_grad
