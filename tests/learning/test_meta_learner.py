"""Adaptation on models whose meta-gradient is known in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from helpers import random_params, random_samples, small_spec, take_tasks, with_noise
from torch import Tensor

from maml_rl.learning.losses import policy_gradient_loss
from maml_rl.learning.meta_learner import Params, adapt, stack_params

ALPHA = 0.1


class Quadratic(NamedTuple):
    """Losses h/2 |x - c|^2 + d/2 |y + c|^2 of each task; h and d are curvatures, c the task's centre."""

    centres: Tensor


H, D = 3.0, 0.5


def loss(params: Params, data: Quadratic) -> Tensor:
    x, y = params["x"], params["y"]
    return 0.5 * H * (x - data.centres).square().sum(-1) + 0.5 * D * (y + data.centres).square().sum(-1)


def theta() -> Params:
    return {
        "x": torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True),
        "y": torch.tensor([0.5, 4.0], dtype=torch.float64, requires_grad=True),
    }


def centres(seed: int = 0, tasks: int = 3) -> Quadratic:
    return Quadratic(
        torch.randn(tasks, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )


def meta_gradient(
    pre: Sequence[Quadratic],
    post: Quadratic,
    inner_lr: float | Mapping[str, Tensor],
    *,
    first_order: bool = False,
) -> tuple[Params, Params]:
    """Gradients of the summed post-adaptation losses: in theta, and in theta' summed over tasks."""
    start = theta()
    adapted = adapt(loss, stack_params(start, len(post.centres)), pre, inner_lr, first_order=first_order)
    gradients = torch.autograd.grad(loss(adapted, post).sum(), [*start.values(), *adapted.values()])
    return dict(zip(start, gradients[:2], strict=True)), {
        name: g.sum(0) for name, g in zip(start, gradients[2:], strict=True)
    }


def test_one_step_known_answer() -> None:
    data = centres()
    adapted = adapt(loss, stack_params(theta(), 3), [data], ALPHA)
    torch.testing.assert_close(adapted["x"], theta()["x"] - ALPHA * H * (theta()["x"] - data.centres))
    torch.testing.assert_close(adapted["y"], theta()["y"] - ALPHA * D * (theta()["y"] + data.centres))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_second_order_meta_gradient_on_a_quadratic(steps: int) -> None:
    meta, post = meta_gradient([centres()] * steps, centres(1), ALPHA)
    torch.testing.assert_close(meta["x"], (1 - ALPHA * H) ** steps * post["x"])
    torch.testing.assert_close(meta["y"], (1 - ALPHA * D) ** steps * post["y"])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_first_order_meta_gradient_is_the_post_gradient(steps: int) -> None:
    meta, post = meta_gradient([centres()] * steps, centres(1), ALPHA, first_order=True)
    exact, exact_post = meta_gradient([centres()] * steps, centres(1), ALPHA)
    for name in meta:
        torch.testing.assert_close(meta[name], post[name])
        torch.testing.assert_close(post[name], exact_post[name])  # the adapted parameters are the same
        assert not torch.allclose(meta[name], exact[name], rtol=1e-2)


def test_each_step_uses_its_own_data() -> None:
    first, second = centres(0), centres(1)
    adapted = adapt(loss, stack_params(theta(), 3), [first, second], ALPHA)
    x = theta()["x"].detach()
    for data in (first, second):
        x = x - ALPHA * H * (x - data.centres)
    torch.testing.assert_close(adapted["x"], x)


def test_no_step_changes_nothing() -> None:
    start = stack_params(theta(), 3)
    assert adapt(loss, start, [], ALPHA)["x"] is start["x"]


def test_step_size_zero_changes_nothing() -> None:
    start = stack_params(theta(), 3)
    torch.testing.assert_close(adapt(loss, start, [centres()], 0.0), start, rtol=0, atol=0)


def test_per_parameter_step_sizes_scalar_or_of_the_parameters_shape() -> None:
    inner_lr = {
        "x": torch.tensor([0.1, 0.3], dtype=torch.float64),
        "y": torch.tensor(0.2, dtype=torch.float64),
    }
    data = centres()
    adapted = adapt(loss, stack_params(theta(), 3), [data], inner_lr)
    torch.testing.assert_close(adapted["x"], theta()["x"] - inner_lr["x"] * H * (theta()["x"] - data.centres))
    torch.testing.assert_close(adapted["y"], theta()["y"] - 0.2 * D * (theta()["y"] + data.centres))


def test_per_parameter_step_sizes_enter_the_meta_gradient() -> None:
    inner_lr = {
        "x": torch.tensor([0.1, 0.3], dtype=torch.float64),
        "y": torch.tensor(0.2, dtype=torch.float64),
    }
    meta, post = meta_gradient([centres()], centres(1), inner_lr)
    torch.testing.assert_close(meta["x"], (1 - inner_lr["x"] * H) * post["x"])
    torch.testing.assert_close(meta["y"], (1 - 0.2 * D) * post["y"])


@pytest.mark.parametrize("first_order", [False, True])
def test_gradient_in_the_step_size(first_order: bool) -> None:
    inner_lr = {
        "x": torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True),
        "y": torch.tensor(0.2, dtype=torch.float64, requires_grad=True),
    }
    pre, post = centres(0), centres(1)
    adapted = adapt(loss, stack_params(theta(), 3), [pre], inner_lr, first_order=first_order)
    gradient = torch.autograd.grad(loss(adapted, post).sum(), list(inner_lr.values()))
    # d loss / d alpha = -(gradient after) . (gradient before), summed over tasks.
    for name, value, centre, curvature in (("x", gradient[0], 1, H), ("y", gradient[1], -1, D)):
        before = curvature * (theta()[name] - centre * pre.centres)
        after = curvature * (adapted[name] - centre * post.centres)
        expected = -(after * before).sum(0)
        torch.testing.assert_close(value, (expected if value.ndim else expected.sum()).detach())


def test_several_steps_with_a_learned_step_size_by_finite_differences() -> None:
    pre, post = [centres(0), centres(1)], centres(2)

    def objective(alpha: Tensor) -> Tensor:
        adapted = adapt(loss, stack_params(theta(), 3), pre, {"x": alpha, "y": alpha})
        return loss(adapted, post).sum()

    alpha = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(alpha), [alpha])
    above, below = (objective(alpha.detach() + change).detach() for change in (1e-5, -1e-5))
    assert float(gradient) == pytest.approx(float(above - below) / 2e-5, rel=1e-8)


def test_values_do_not_depend_on_the_order_of_the_derivative() -> None:
    results = [
        adapt(loss, stack_params(theta(), 3), [centres(0), centres(1)], ALPHA, first_order=first_order)
        for first_order in (False, True)
    ]
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


def test_works_without_gradients_and_inside_no_grad() -> None:
    plain = {name: value.detach() for name, value in theta().items()}
    expected = adapt(loss, stack_params(theta(), 3), [centres()] * 2, ALPHA)
    with torch.no_grad():
        adapted = adapt(loss, stack_params(plain, 3), [centres()] * 2, ALPHA, first_order=True)
    for name, value in adapted.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected[name].detach(), rtol=0, atol=0)


def test_parameters_are_values_and_stay_as_they_were() -> None:
    start = theta()
    adapt(loss, stack_params(start, 3), [centres()], ALPHA)
    for name, value in theta().items():
        assert torch.equal(start[name], value)
        assert start[name].grad is None


def test_stacking_repeats_and_sums_gradients_over_tasks() -> None:
    start = theta()
    stacked = stack_params(start, 4)
    assert stacked["x"].shape == (4, 2)
    (gradient,) = torch.autograd.grad(stacked["x"].sum(), [start["x"]])
    torch.testing.assert_close(gradient, torch.full((2,), 4.0, dtype=torch.float64))


# --- the same with policies: no task may see another one


def adapt_policies(samples: Sequence, spec_seed: int = 0) -> Params:  # type: ignore[type-arg]
    spec = small_spec()
    return adapt(
        lambda params, data: policy_gradient_loss(spec(params, data.observations), data),
        stack_params(random_params(spec, spec_seed), len(samples[0].weights)),
        samples,
        0.3,
        first_order=True,
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_permuting_tasks_permutes_results(steps: int) -> None:
    samples, order = random_samples(small_spec(), [6, 4, 5]), [2, 0, 1]
    straight = adapt_policies([samples] * steps)
    permuted = adapt_policies([take_tasks(samples, order)] * steps)
    for name, value in straight.items():
        torch.testing.assert_close(permuted[name], value[order], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(value[0], value[1])


def test_a_batch_of_tasks_equals_tasks_alone() -> None:
    samples = random_samples(small_spec(), [6, 4, 5])
    together = adapt_policies([samples] * 2)
    for task in range(3):
        alone = adapt_policies([samples.tasks(task, task + 1)] * 2)
        for name, value in together.items():
            torch.testing.assert_close(alone[name][0], value[task], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", ["observations", "actions", "advantages"])
def test_noise_in_one_tasks_data_changes_that_task_alone(field: str) -> None:
    samples = random_samples(small_spec(), [6, 6, 6])
    clean, noisy = adapt_policies([samples] * 2), adapt_policies([with_noise(samples, field, [1])] * 2)
    for name, value in clean.items():
        for task in (0, 2):
            assert torch.equal(value[task], noisy[name][task])
        assert not torch.allclose(value[1], noisy[name][1])
