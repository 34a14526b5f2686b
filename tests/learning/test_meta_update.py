"""The meta-objective: its gradient, its curvature, what it depends on, and the whole update."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import (
    flat,
    gradient_and_hessian_product,
    meta_blocks,
    numpy_params,
    point_nav_samples,
    random_inner_lr,
    random_params,
    random_samples,
    reference_adapt,
    reference_loss_and_kl,
    small_spec,
    take_tasks,
    with_noise,
)
from torch import Tensor

import maml_rl.learning.meta_update
from maml_rl.learning.batch import Samples
from maml_rl.learning.meta_learner import Params
from maml_rl.learning.meta_update import (
    MetaObjective,
    MetaUpdateSettings,
    adapt_in_chunks,
    adapt_policy,
    meta_update,
)
from maml_rl.learning.trpo import LineSearch
from maml_rl.policies.meta_params import INNER_LR, split_meta_params
from maml_rl.policies.mlp import GaussianMLP

DOUBLE = torch.float64
COUNTS = [6, 4, 5]
SETTINGS = MetaUpdateSettings(inner_lr=0.3, hvp="exact")
FIELDS = ["observations", "actions", "advantages"]


class Problem:
    """Meta-parameters, both phases' samples, and settings; everything can be replaced."""

    def __init__(
        self,
        *,
        steps: int = 1,
        learned: bool = False,
        seed: int = 0,
        dtype: torch.dtype = DOUBLE,
        counts: Sequence[int] = COUNTS,
        spec: GaussianMLP | None = None,
        **settings: Any,
    ) -> None:
        self.spec = spec or small_spec()
        self.meta_params = random_params(self.spec, seed, dtype)
        if learned:
            self.meta_params |= random_inner_lr(self.spec, seed, dtype)
        self.pre = [random_samples(self.spec, counts, seed + 10 + step, dtype) for step in range(steps)]
        self.post = random_samples(self.spec, counts[::-1], seed + 20, dtype)
        self.settings = dataclasses.replace(SETTINGS, **settings)

    def objective(
        self, *, pre: Sequence[Samples] | None = None, post: Samples | None = None
    ) -> MetaObjective:
        return MetaObjective(self.spec, self.meta_params, pre or self.pre, post or self.post, self.settings)

    def update(self) -> tuple[Params, Any]:
        return meta_update(self.spec, self.meta_params, self.pre, self.post, self.settings)


def direction(like: Tensor, seed: int = 0) -> Tensor:
    """A random unit vector."""
    v = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(like.dtype)
    return v / v.norm()


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


# --- meta-parameters


def test_fixed_and_learned_step_sizes_are_told_apart() -> None:
    spec = small_spec()
    theta = random_params(spec)
    assert split_meta_params(theta, 0.3) == (theta, 0.3)
    with_context = random_params(small_spec(context_size=2))
    _, inner_lr = split_meta_params(with_context, 0.3)
    assert inner_lr == {name: 0.3 if name == "context" else 0.0 for name in with_context}
    learned = random_inner_lr(spec)
    parameters, inner_lr = split_meta_params(theta | learned, 0.3)
    assert parameters == theta
    assert not isinstance(inner_lr, float)
    assert {INNER_LR + name: value for name, value in inner_lr.items()} == learned


@pytest.mark.parametrize("learned", [False, True])
def test_flat_vector_and_back(learned: bool) -> None:
    problem = Problem(learned=learned)
    objective = problem.objective()
    again = objective.meta_params(objective.start)
    assert set(again) == set(problem.meta_params)
    for name, value in problem.meta_params.items():
        assert torch.equal(again[name], value)
    assert torch.equal(objective.start, flat(meta_blocks(problem.spec, problem.meta_params)))


# --- values


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("learned", [False, True])
def test_adapted_policies_are_those_of_the_reference(steps: int, learned: bool) -> None:
    problem = Problem(steps=steps, learned=learned)
    adapted = adapt_policy(problem.spec, problem.meta_params, problem.pre, 0.3)
    start = {k: v.clone().requires_grad_() for k, v in problem.meta_params.items()}
    for task in range(3):
        expected = reference_adapt(problem.spec, start, problem.pre, task, 0.3)
        for name, value in expected.items():
            torch.testing.assert_close(adapted[name][task].detach(), value.detach())


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_loss_and_kl_are_those_of_the_reference(steps: int, learned: bool, activation: str) -> None:
    problem = Problem(steps=steps, learned=learned, spec=small_spec(activation=activation))
    objective = problem.objective()
    for vector in (objective.start, objective.start + 0.3 * direction(objective.start)):
        trial = {k: v.clone().requires_grad_() for k, v in objective.meta_params(vector).items()}
        loss, kl = reference_loss_and_kl(
            problem.spec, trial, problem.meta_params, problem.pre, problem.post, 0.3
        )
        assert objective.loss_and_kl(vector) == pytest.approx(
            (float(loss.detach()), float(kl.detach())), rel=1e-10, abs=1e-14
        )
    assert kl > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_at_the_start_kl_is_exactly_zero_and_the_loss_is_minus_the_mean_advantage(
    dtype: torch.dtype, learned: bool, steps: int, seed: int
) -> None:
    problem = Problem(dtype=dtype, learned=learned, steps=steps, seed=seed)
    objective = problem.objective()
    loss, kl = objective.loss_and_kl(objective.start)
    assert kl == 0.0
    assert loss == pytest.approx(
        -float((problem.post.advantages * problem.post.weights).sum(-1).mean()), rel=1e-5
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_loss_before_is_the_objective_that_the_line_search_uses(steps: int) -> None:
    problem = Problem(steps=steps, dtype=torch.float32)
    _, result = problem.update()
    objective = problem.objective()
    assert result.loss_before == objective.loss_and_kl(objective.start)[0]
    assert (result.loss_after, result.kl) == objective.loss_and_kl(result.params)


# --- the gradient, by finite differences of the whole objective


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_gradient_by_finite_differences_of_the_whole_objective(
    activation: str, learned: bool, steps: int
) -> None:
    spec = small_spec(activation=activation, hidden_sizes=(3, 4))
    problem = Problem(steps=steps, learned=learned, spec=spec)
    objective = problem.objective()
    gradient, _ = objective.linearize()
    # ReLU is piecewise linear: the smaller step keeps these samples off its kinks.
    step = 1e-5 if activation == "tanh" else 1e-6
    numeric = torch.empty_like(gradient)
    for i in range(len(gradient)):
        change = torch.zeros_like(gradient)
        change[i] = step
        above, below = (objective.loss_and_kl(objective.start + sign * change)[0] for sign in (1, -1))
        numeric[i] = (above - below) / (2 * step)
    assert relative(gradient, numeric) < 1e-7


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("spec", [small_spec(context_size=2)])
def test_with_a_context_only_the_context_is_adapted(spec: GaussianMLP, steps: int) -> None:
    problem = Problem(spec=spec, steps=steps)
    adapted = adapt_policy(spec, problem.meta_params, problem.pre, 0.3)
    for name, value in problem.meta_params.items():
        moved = not torch.equal(adapted[name], value.expand_as(adapted[name]))
        assert moved == (name == "context")
    start = {k: v.clone().requires_grad_() for k, v in problem.meta_params.items()}
    for task in range(3):
        expected = reference_adapt(spec, start, problem.pre, task, 0.3)
        torch.testing.assert_close(adapted["context"][task].detach(), expected["context"].detach())


@pytest.mark.parametrize("spec", [small_spec(), small_spec(context_size=2)])
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_gradient_and_product_of_every_kind_of_policy(spec: GaussianMLP, steps: int, hvp: str) -> None:
    # Without an inner step the objective is that of plain TRPO on the post data.
    problem = Problem(spec=spec, steps=steps, hvp=hvp, hvp_step=1e-4, cg_damping=0.0)
    objective = problem.objective()
    gradient, product = objective.linearize()
    v = direction(objective.start)

    def reference(which: int) -> tuple[Params, Params]:
        return gradient_and_hessian_product(
            lambda p: reference_loss_and_kl(spec, p, problem.meta_params, problem.pre, problem.post, 0.3)[
                which
            ],
            problem.meta_params,
            objective.meta_params(v),
        )

    assert relative(gradient, flat(meta_blocks(spec, reference(0)[0]))) < 1e-10
    assert relative(product(v), flat(meta_blocks(spec, reference(1)[1]))) < 1e-5


def test_without_an_inner_step_the_update_improves_the_post_data() -> None:
    _, step = Problem(steps=0, max_kl=0.01).update()
    assert step.accepted
    assert step.loss_after < step.loss_before
    assert step.kl <= 0.01


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_curvature_by_second_differences_of_the_kl(learned: bool, steps: int, hvp: str) -> None:
    problem = Problem(steps=steps, learned=learned, hvp=hvp, hvp_step=1e-4, cg_damping=0.0)
    objective = problem.objective()
    _, product = objective.linearize()
    for seed in range(3):
        v = direction(objective.start, seed)
        above, below = (objective.loss_and_kl(objective.start + step * v)[1] for step in (1e-4, -1e-4))
        assert float(v @ product(v)) == pytest.approx((above + below) / 1e-8, rel=1e-5)


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_damping_is_added(hvp: str) -> None:
    v = direction(Problem().objective().start)
    plain, damped = (
        Problem(hvp=hvp, cg_damping=damping).objective().linearize()[1](v) for damping in (0.0, 0.5)
    )
    torch.testing.assert_close(damped, plain + 0.5 * v)


def test_finite_difference_product_does_not_depend_on_the_length_of_the_vector() -> None:
    _, product = Problem(hvp="finite_difference").objective().linearize()
    v = direction(Problem().objective().start)
    torch.testing.assert_close(product(1e3 * v), 1e3 * product(v))


def test_both_kinds_of_product_agree_and_are_not_the_same_computation() -> None:
    v = direction(Problem().objective().start)
    exact, approximate = (
        Problem(hvp=hvp).objective().linearize()[1](v) for hvp in ("exact", "finite_difference")
    )
    assert 0 < relative(approximate, exact) < 1e-2


def test_step_of_the_finite_difference_is_used() -> None:
    v = direction(Problem().objective().start)
    exact = Problem().objective().linearize()[1](v)
    errors = [
        relative(Problem(hvp="finite_difference", hvp_step=step).objective().linearize()[1](v), exact)
        for step in (0.3, 0.03, 0.003)
    ]
    assert errors == sorted(errors, reverse=True)


# --- what the objective depends on


def trial_loss(problem: Problem, **data: Any) -> float:
    objective = problem.objective(**data)
    return objective.loss_and_kl(objective.start + 0.1 * direction(objective.start))[0]


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
    problem.settings = dataclasses.replace(problem.settings, first_order=True)
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
    problem = Problem(steps=2, hvp=hvp, learned=True)
    whole = problem.objective()
    gradient, product = whole.linearize()
    vector = whole.start + 0.1 * direction(whole.start)
    expected = [gradient, product(direction(gradient)), torch.tensor(whole.loss_and_kl(vector))]
    monkeypatch.setattr(maml_rl.learning.meta_update, "_tasks_per_chunk", lambda post: size)
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
    monkeypatch.setattr(maml_rl.learning.meta_update, "_tasks_per_chunk", lambda post: 1)
    problem = Problem(steps=2, hvp=hvp, dtype=dtype, counts=[40] * 8)
    arguments = (problem.spec, problem.meta_params, problem.pre, problem.post, problem.settings)
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
    monkeypatch.setattr(maml_rl.learning.meta_update, "_tasks_per_chunk", lambda post: size)
    adapted = adapt_in_chunks(problem.spec, problem.meta_params, problem.pre, 0.3)
    assert list(adapted) == list(expected)
    for name, value in adapted.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
        assert not value.requires_grad


# --- a fraction of the samples for the curvature


def test_curvature_of_half_the_samples_is_exact_when_every_sample_comes_twice() -> None:
    def twice(samples: Samples) -> Samples:
        doubled = Samples(*(field.repeat_interleave(2, dim=1) for field in samples))
        return doubled._replace(weights=doubled.weights / 2)

    plain, half = Problem(steps=2), Problem(steps=2, curvature_fraction=0.5)
    half.pre, half.post = [twice(s) for s in half.pre], twice(half.post)
    (gradient, product), (other, other_product) = (p.objective().linearize() for p in (plain, half))
    torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-12)
    v = direction(gradient)
    torch.testing.assert_close(other_product(v), product(v), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_curvature_fraction_is_near_the_full_product_and_leaves_the_gradient_alone(hvp: str) -> None:
    full, half = (
        Problem(counts=[800, 700], curvature_fraction=f, hvp=hvp, hvp_step=1e-3) for f in (1.0, 0.5)
    )
    (gradient, product), (other, other_product) = (p.objective().linearize() for p in (full, half))
    assert torch.equal(gradient, other)
    v = direction(gradient)
    assert 1e-4 < relative(other_product(v), product(v)) < 0.2


def test_curvature_fraction_thins_both_phases() -> None:
    thinned, by_hand = Problem(steps=2, curvature_fraction=0.5), Problem(steps=2)
    by_hand.pre, by_hand.post = [s.thinned(0.5) for s in by_hand.pre], by_hand.post.thinned(0.5)
    v = direction(thinned.objective().start)
    expected = by_hand.objective().linearize()[1](v)
    torch.testing.assert_close(thinned.objective().linearize()[1](v), expected, rtol=1e-10, atol=1e-12)


def test_both_kinds_of_product_agree_on_a_fraction() -> None:
    # They do only if the old policies come from the same thinned samples: there the KL's gradient is zero.
    products = []
    for hvp in ("exact", "finite_difference"):
        problem = Problem(counts=[40, 30], curvature_fraction=0.25, hvp=hvp, hvp_step=1e-4)
        objective = problem.objective()
        products.append(objective.linearize()[1](direction(objective.start)))
    assert relative(products[1], products[0]) < 1e-6


# --- the update


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_update_lowers_the_loss_within_the_trust_region(
    hvp: str, learned: bool, first_order: bool, dtype: torch.dtype
) -> None:
    for seed in range(3):
        problem = Problem(
            seed=seed, hvp=hvp, learned=learned, first_order=first_order, dtype=dtype, counts=[40, 30, 35]
        )
        before = {name: value.clone() for name, value in problem.meta_params.items()}
        meta_params, result = problem.update()
        assert result.accepted
        assert result.loss_after < result.loss_before
        assert 0 < result.kl <= problem.settings.max_kl
        assert set(meta_params) == set(before)
        for name, value in meta_params.items():
            assert value.dtype == dtype
            assert value.shape == before[name].shape
            assert not value.requires_grad
            assert torch.isfinite(value).all()
            assert not torch.equal(value, before[name])
            assert torch.equal(problem.meta_params[name], before[name]), "the old parameters are values"


def test_update_spends_most_of_the_trust_region() -> None:
    # To second order the full step reaches max_kl; a tiny one must be used up almost exactly.
    _, result = Problem(counts=[40, 30, 35], max_kl=1e-6).update()
    assert result.kl == pytest.approx(1e-6, rel=0.05) or result.kl == pytest.approx(0.64e-6, rel=0.05)


@pytest.mark.parametrize("max_kl", [1e-4, 1e-2])
def test_max_kl_is_used(max_kl: float) -> None:
    _, result = Problem(counts=[40, 30, 35], max_kl=max_kl).update()
    assert 0.2 * max_kl < result.kl <= max_kl


def test_learned_step_sizes_move_and_fixed_ones_are_not_invented() -> None:
    learned = Problem(learned=True, counts=[40, 30, 35])
    meta_params, _ = learned.update()
    for name in learned.spec.shapes:
        assert not torch.equal(meta_params[INNER_LR + name], learned.meta_params[INNER_LR + name])
    assert not any(name.startswith(INNER_LR) for name in Problem().update()[0])


def test_a_learned_step_size_replaces_the_fixed_one() -> None:
    problem = Problem(learned=True)
    other = Problem(learned=True, inner_lr=99.0)
    assert trial_loss(problem) == trial_loss(other)
    assert trial_loss(Problem()) != trial_loss(Problem(inner_lr=0.2))


def test_updates_are_deterministic() -> None:
    (first, _), (second, _) = (
        Problem(hvp="finite_difference").update(),
        Problem(hvp="finite_difference").update(),
    )
    for name, value in first.items():
        assert torch.equal(value, second[name])


@pytest.mark.parametrize("phase", ["pre", "post"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_data_that_are_not_finite_leave_the_very_same_parameters(phase: str, bad: float, hvp: str) -> None:
    problem = Problem(hvp=hvp)
    samples = problem.post if phase == "post" else problem.pre[0]
    samples.advantages[1, 0] = bad
    meta_params, result = problem.update()
    assert meta_params is problem.meta_params
    assert not result.accepted
    assert all(torch.isfinite(value).all() for value in meta_params.values())


def test_a_search_that_finds_nothing_leaves_the_very_same_parameters() -> None:
    problem = Problem(line_search=LineSearch(steps=0))
    meta_params, result = problem.update()
    assert meta_params is problem.meta_params
    assert not result.accepted
    assert result.loss_after == result.loss_before
    assert result.kl == 0


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (100, 100), (6, 5, 4)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_any_network_shape(hidden_sizes: tuple[int, ...], activation: str) -> None:
    spec = small_spec(hidden_sizes=hidden_sizes, activation=activation)
    _, result = Problem(spec=spec, counts=[40, 30], inner_lr=0.1, dtype=torch.float32).update()
    assert result.accepted
    assert result.loss_after < result.loss_before


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_update_on_real_data(hvp: str) -> None:
    # The paper's network and settings, on fewer tasks and shorter episodes.
    spec = GaussianMLP(2, 2)
    params = spec.init_params(0)
    pre, post = point_nav_samples(spec, params, tasks=4, episodes=10, horizon=40, inner_lr=0.1, seed=0)
    settings = MetaUpdateSettings(inner_lr=0.1, hvp=hvp)
    new, result = meta_update(spec, params, [pre], post, settings)
    assert result.accepted
    assert result.loss_after < result.loss_before - 5e-4
    assert 1e-3 < result.kl <= 0.01
    assert numpy_params(new).keys() == numpy_params(params).keys()


def test_settings_default_to_the_published_ones() -> None:
    settings = MetaUpdateSettings(inner_lr=0.1)
    assert settings.max_kl == 0.01
    assert (settings.cg_iterations, settings.cg_residual_tol, settings.cg_damping) == (10, 1e-10, 1e-5)
    assert (settings.line_search.steps, settings.line_search.ratio) == (15, 0.8)
    assert settings.hvp == "finite_difference"
    assert not settings.first_order
