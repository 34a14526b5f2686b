"""Conjugate gradient, natural step, line search and trust-region step on problems with known solutions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maml_rl.learning.trpo import LineSearch, conjugate_gradient, line_search, natural_step, trust_region_step

DOUBLE = torch.float64
Evaluate = Callable[[Tensor], tuple[float, float]]


def spd_matrix(n: int = 6, seed: int = 0) -> Tensor:
    """Symmetric, with eigenvalues 1 .. n."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=DOUBLE))
    return q @ torch.diag(torch.arange(1.0, n + 1, dtype=DOUBLE)) @ q.T


def vector(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


class Counted:
    """A linear operator that counts its products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.products = matrix, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ v


# --- conjugate gradient


@pytest.mark.parametrize("n", [1, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradient_is_exact_after_n_iterations(n: int, seed: int) -> None:
    matrix, b = spd_matrix(n, seed), vector(n, seed + 1)
    x, _ = conjugate_gradient(Counted(matrix), b, iterations=n, residual_tol=0.0)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-9)


def test_fewer_iterations_are_not_exact_but_nearer_in_energy() -> None:
    matrix, b = spd_matrix(), vector()
    solution = torch.linalg.solve(matrix, b)
    errors = []
    for iterations in range(7):
        error = conjugate_gradient(Counted(matrix), b, iterations=iterations, residual_tol=0.0)[0] - solution
        errors.append(float(error @ matrix @ error))
    assert errors == sorted(errors, reverse=True)
    assert errors[5] > 1e-8 > errors[6]


def test_one_iteration_known_answer() -> None:
    # Steepest descent with the exact step b.b / b.Ab = 5 / 13.
    matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=DOUBLE))
    b = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    x, _ = conjugate_gradient(Counted(matrix), b, iterations=1)
    torch.testing.assert_close(x, 5 / 13 * b)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_the_product_of_the_solution_comes_along(iterations: int) -> None:
    matrix = spd_matrix()
    x, product = conjugate_gradient(Counted(matrix), vector(), iterations=iterations)
    torch.testing.assert_close(product, matrix @ x, rtol=1e-10, atol=1e-10)


def test_stops_once_the_squared_residual_is_small() -> None:
    matrix, b = spd_matrix(), vector()
    loose, tight = Counted(matrix), Counted(matrix)
    x, _ = conjugate_gradient(loose, b, iterations=20, residual_tol=1e-2)
    assert (b - matrix @ x).square().sum() < 1e-2
    conjugate_gradient(tight, b, iterations=20, residual_tol=1e-20)
    assert loose.products < tight.products < 20


def test_no_more_products_than_iterations() -> None:
    operator = Counted(spd_matrix())
    conjugate_gradient(operator, vector(), iterations=4, residual_tol=0.0)
    assert operator.products == 4


def test_zero_right_hand_side_needs_no_product() -> None:
    operator = Counted(spd_matrix())
    x, product = conjugate_gradient(operator, torch.zeros(6, dtype=DOUBLE))
    assert operator.products == 0
    assert (x == 0).all()
    assert (product == 0).all()


def test_right_hand_side_stays_as_it_was() -> None:
    b = vector()
    conjugate_gradient(Counted(spd_matrix()), b)
    assert torch.equal(b, vector())


# --- natural step


@pytest.mark.parametrize("max_kl", [0.01, 0.5])
def test_natural_step_spends_the_whole_trust_region(max_kl: float) -> None:
    matrix, gradient = spd_matrix(), vector()
    step = natural_step(gradient, Counted(matrix), max_kl=max_kl)
    assert float(0.5 * step @ matrix @ step) == pytest.approx(max_kl, rel=1e-6)
    natural = torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(step / step.norm(), -natural / natural.norm(), rtol=1e-5, atol=1e-5)


def test_natural_step_is_the_best_point_of_the_trust_region() -> None:
    matrix, gradient = spd_matrix(), vector()
    best = float(gradient @ natural_step(gradient, Counted(matrix), max_kl=0.1))
    for seed in range(20):
        other = vector(seed=seed + 10)
        other = other * torch.sqrt(0.2 / (other @ matrix @ other))
        assert float(gradient @ other) > best


def test_natural_step_of_a_zero_gradient_is_zero() -> None:
    assert (natural_step(torch.zeros(6, dtype=DOUBLE), Counted(spd_matrix()), max_kl=0.1) == 0).all()


# --- line search


def search_along(evaluate: Evaluate, *, search: LineSearch | None = None, max_kl: float = 1.0) -> object:
    """From 0 along a unit step, where the loss is 0."""
    return line_search(
        torch.zeros(1, dtype=DOUBLE),
        torch.ones(1, dtype=DOUBLE),
        evaluate,
        loss_before=0.0,
        max_kl=max_kl,
        search=search or LineSearch(),
    )


def scripted(*results: tuple[float, float]) -> tuple[Evaluate, list[float]]:
    """An objective that answers from a list, and where it was asked."""
    asked: list[float] = []

    def evaluate(x: Tensor) -> tuple[float, float]:
        asked.append(float(x))
        return results[len(asked) - 1]

    return evaluate, asked


def test_the_full_step_is_taken_when_it_is_good() -> None:
    evaluate, asked = scripted((-1.0, 0.5))
    found = search_along(evaluate)
    assert found == (torch.ones(1, dtype=DOUBLE), -1.0, 0.5, 0)
    assert asked == [1.0]


def test_backtracks_to_the_first_point_that_satisfies_both() -> None:
    # KL too large; loss not lower; loss equal; then both are right.
    evaluate, asked = scripted((-1.0, 1.1), (0.5, 0.5), (0.0, 0.5), (-0.1, 1.0), (-9.0, 0.0))
    trial, loss, kl, k = search_along(evaluate)  # type: ignore[misc]
    assert (loss, kl, k) == (-0.1, 1.0, 3)
    assert float(trial) == pytest.approx(0.8**3)
    assert asked == pytest.approx([1, 0.8, 0.64, 0.512])


@pytest.mark.parametrize(
    "bad", [(math.nan, 0.1), (-1.0, math.nan), (math.nan, math.nan), (-1.0, math.inf), (math.inf, 0.0)]
)
def test_values_that_are_not_finite_are_refused(bad: tuple[float, float]) -> None:
    evaluate, _ = scripted(bad, (-1.0, 0.1))
    assert search_along(evaluate)[3] == 1  # type: ignore[index]
    assert search_along(lambda _: bad) is None


def test_none_where_no_point_is_acceptable() -> None:
    evaluate, asked = scripted(*[(1.0, 0.0)] * 20)
    assert search_along(evaluate) is None
    assert asked == pytest.approx([0.8**k for k in range(15)])


def test_search_settings_are_used() -> None:
    evaluate, asked = scripted(*[(1.0, 0.0)] * 20)
    assert search_along(evaluate, search=LineSearch(steps=3, ratio=0.5)) is None
    assert asked == [1.0, 0.5, 0.25]


# --- the whole step


def quadratic(matrix: Tensor, centre: Tensor) -> tuple[Evaluate, Tensor]:
    """Loss |x - centre|^2 / 2 and KL x.A x / 2, with the gradient of the loss at 0."""

    def evaluate(x: Tensor) -> tuple[float, float]:
        return float(0.5 * (x - centre).square().sum()), float(0.5 * x @ matrix @ x)

    return evaluate, -centre


def test_trust_region_step_on_a_known_quadratic() -> None:
    matrix, centre, max_kl = spd_matrix(), 5 * vector(), 0.01
    evaluate, gradient = quadratic(matrix, centre)
    start = torch.zeros(6, dtype=DOUBLE)
    before, _ = evaluate(start)
    result = trust_region_step(
        start, gradient, Counted(matrix), evaluate, loss_before=before, max_kl=max_kl * (1 + 1e-9)
    )
    natural = torch.linalg.solve(matrix, centre)
    expected = math.sqrt(2 * max_kl / float(natural @ matrix @ natural)) * natural
    torch.testing.assert_close(result.params, expected, rtol=1e-5, atol=1e-8)
    assert result.accepted
    assert result.backtracks == 0
    assert result.kl == pytest.approx(max_kl, rel=1e-6)
    assert (result.loss_after, result.kl) == evaluate(result.params)
    assert result.loss_before == before
    assert result.loss_after < before
    assert result.gradient_norm == pytest.approx(float(centre.norm()))


def test_a_step_beyond_the_minimum_is_shortened() -> None:
    # The loss is steep and narrow: the whole trust region overshoots, and a fraction of the step is right.
    matrix, centre = torch.eye(2, dtype=DOUBLE), torch.tensor([0.1, 0.0], dtype=DOUBLE)
    evaluate, gradient = quadratic(matrix, centre)
    start = torch.zeros(2, dtype=DOUBLE)
    result = trust_region_step(
        start, gradient, Counted(matrix), evaluate, loss_before=evaluate(start)[0], max_kl=0.5
    )
    # The step has length 1; the loss falls below length 0.2, and 0.8^8 = 0.168 is the first there.
    assert result.backtracks == 8
    assert float(result.params.norm()) == pytest.approx(0.8**8, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_unusable_gradient_is_refused_and_the_parameters_stay(bad: float) -> None:
    matrix, centre = spd_matrix(), vector()
    evaluate, gradient = quadratic(matrix, centre)
    gradient[2] = bad
    start = torch.zeros(6, dtype=DOUBLE)
    before, _ = evaluate(start)
    result = trust_region_step(start, gradient, Counted(matrix), evaluate, loss_before=before, max_kl=0.01)
    assert result.params is start
    assert not result.accepted
    assert (result.loss_after, result.kl) == (before, 0.0)


def test_a_step_uphill_is_refused_and_the_parameters_stay() -> None:
    matrix, centre = spd_matrix(), vector()
    evaluate, gradient = quadratic(matrix, centre)
    start = torch.zeros(6, dtype=DOUBLE)
    before, _ = evaluate(start)
    result = trust_region_step(start, -gradient, Counted(matrix), evaluate, loss_before=before, max_kl=0.01)
    assert result.params is start
    assert not result.accepted
    assert result.backtracks == 15


def test_conjugate_gradient_settings_are_used() -> None:
    matrix, centre = spd_matrix(), vector()
    evaluate, gradient = quadratic(matrix, centre)
    start = torch.zeros(6, dtype=DOUBLE)
    counts = []
    for settings in ({"cg_iterations": 2}, {"cg_iterations": 5}, {"cg_residual_tol": 1e9}):
        operator = Counted(matrix)
        trust_region_step(start, gradient, operator, evaluate, loss_before=9.0, max_kl=0.01, **settings)  # type: ignore[arg-type]
        counts.append(operator.products)
    assert counts == [2, 5, 0]


def test_defaults_are_the_published_ones() -> None:
    for function in (natural_step, trust_region_step):
        defaults = inspect.signature(function).parameters
        assert (defaults["cg_iterations"].default, defaults["cg_residual_tol"].default) == (10, 1e-10)
    defaults = inspect.signature(conjugate_gradient).parameters
    assert (defaults["iterations"].default, defaults["residual_tol"].default) == (10, 1e-10)
    assert (LineSearch().steps, LineSearch().ratio) == (15, 0.8)
