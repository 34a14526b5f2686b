"""Gradient and curvature of the meta-objective by finite differences of the whole of it."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    flat,
    gradient_and_hessian_product,
    meta_blocks,
    random_params,
    reference_adapt,
    reference_loss_and_kl,
    small_spec,
)
from meta_update_helpers import SETTINGS, Objective, Problem, direction, relative

from maml_rl.learning.adaptation import InnerUpdateSettings, adapt_policy
from maml_rl.learning.batch import Samples
from maml_rl.learning.losses import INNER_LOSSES
from maml_rl.learning.meta_learner import Params, stack_params
from maml_rl.policies.heads import CategoricalHead
from maml_rl.policies.mlp import MLP


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("inner_loss", INNER_LOSSES)
@pytest.mark.parametrize("steps", [1, 2])
def test_gradient_by_finite_differences_of_the_whole_objective(
    activation: str, learned: bool, inner_loss: str, steps: int
) -> None:
    spec = small_spec(activation=activation, hidden_sizes=(3, 4))
    problem = Problem(steps=steps, learned=learned, spec=spec, inner_loss=inner_loss)
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
def test_with_a_context_only_the_context_is_adapted(spec: MLP, steps: int) -> None:
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
@pytest.mark.parametrize("inner_loss", INNER_LOSSES)
def test_gradient_and_product_of_every_kind_of_policy(
    spec: MLP, steps: int, hvp: str, inner_loss: str
) -> None:
    # Without an inner step the objective is that of plain TRPO on the post data.
    problem = Problem(spec=spec, steps=steps, hvp=hvp, hvp_step=1e-4, cg_damping=0.0, inner_loss=inner_loss)
    objective = problem.objective()
    gradient, product = objective.linearize()
    v = direction(objective.start)

    def reference(which: int) -> tuple[Params, Params]:
        return gradient_and_hessian_product(
            lambda p: reference_loss_and_kl(
                spec, p, problem.meta_params, problem.pre, problem.post, 0.3, inner_loss=inner_loss
            )[which],
            problem.meta_params,
            objective.meta_params(v),
        )

    assert relative(gradient, flat(meta_blocks(spec, reference(0)[0]))) < 1e-10
    assert relative(product(v), flat(meta_blocks(spec, reference(1)[1]))) < 1e-5


def test_credit_for_what_the_policy_before_adaptation_finds_out() -> None:
    """Two bandits, every arm drawn as often as it is likely: the objective is the expected return after adaptation.

    Its gradient is the likelihood ratio's; that of the paper's inner loss points elsewhere.
    """
    spec = MLP(2, CategoricalHead((4,)), (5, 4), "tanh")
    theta = random_params(spec)
    pays = torch.tensor([[1.0, -1.0, 0.0, 0.4], [-1.0, 1.0, 0.0, 0.4]], dtype=torch.float64)
    observations = torch.ones(2, 4, 2, dtype=torch.float64)
    arms = torch.arange(4.0, dtype=torch.float64).expand(2, 4)[..., None]

    def draws(params: Params) -> Samples:
        return Samples(observations, arms, pays, probabilities(params).detach())

    def probabilities(params: Params) -> torch.Tensor:
        return spec(params, observations).log_prob(arms).exp()

    def after_adaptation(params: Params) -> torch.Tensor:
        stacked = stack_params(params, 2)
        expected = (probabilities(stacked) * pays).sum()
        steps = torch.autograd.grad(expected, list(stacked.values()), create_graph=True)
        adapted = {k: v + 0.3 * g for (k, v), g in zip(stacked.items(), steps, strict=True)}
        return (probabilities(adapted) * pays).sum() / 2

    leaves = {k: v.clone().requires_grad_() for k, v in theta.items()}
    truth = torch.autograd.grad(after_adaptation(leaves), list(leaves.values()))
    expected = -flat(meta_blocks(spec, dict(zip(leaves, truth, strict=True))))

    pre = draws(stack_params(theta, 2))
    post = draws(adapt_policy(spec, theta, [pre], 0.3))

    def gradient(inner_loss: str) -> torch.Tensor:
        inner = InnerUpdateSettings(inner_lr=0.3, inner_loss=inner_loss)
        return Objective(spec, theta, [pre], post, inner, SETTINGS).linearize()[0]

    assert relative(gradient("likelihood_ratio"), expected) < 1e-10
    assert relative(gradient("log_prob"), expected) > 0.05


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
