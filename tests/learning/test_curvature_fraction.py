"""Curvature from a fraction of the samples."""

from __future__ import annotations

import pytest
import torch
from meta_update_helpers import Problem, direction, relative

from maml_rl.learning.batch import Samples


def test_curvature_of_half_the_samples_is_exact_when_every_sample_comes_twice() -> None:
    def twice(samples: Samples) -> Samples:
        doubled = samples.each(lambda field: field.repeat_interleave(2, dim=1))
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
