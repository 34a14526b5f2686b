"""Values of the meta-objective against the plain reference."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    flat,
    meta_blocks,
    random_inner_lr,
    random_params,
    reference_adapt,
    reference_loss_and_kl,
    small_spec,
)
from meta_update_helpers import DOUBLE, Problem, direction

from maml_rl.learning.adaptation import adapt_policy
from maml_rl.policies.meta_params import INNER_LR, split_meta_params

# --- meta-parameters


def test_fixed_and_learned_step_sizes_are_told_apart() -> None:
    spec = small_spec()
    theta = random_params(spec)
    assert split_meta_params(spec, theta, 0.3) == (theta, 0.3)
    context_spec = small_spec(context_size=2)
    with_context = random_params(context_spec)
    _, inner_lr = split_meta_params(context_spec, with_context, 0.3)
    assert inner_lr == {name: 0.3 if name == "context" else 0.0 for name in with_context}
    learned = random_inner_lr(spec)
    parameters, inner_lr = split_meta_params(spec, theta | learned, 0.3)
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
