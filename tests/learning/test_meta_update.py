"""The update: a lower loss within the trust region, or the very same parameters."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import (
    numpy_params,
    point_nav_samples,
    small_spec,
)
from meta_update_helpers import DOUBLE, Problem, trial_loss

from maml_rl.learning.adaptation import InnerUpdateSettings
from maml_rl.learning.meta_update import (
    MetaUpdateSettings,
    meta_update,
)
from maml_rl.learning.trpo import LineSearch
from maml_rl.policies.meta_params import INNER_LR
from maml_rl.policies.mlp import MLP


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
    spec = MLP.gaussian(2, 2)
    params = spec.init_params(0)
    pre, post = point_nav_samples(spec, params, tasks=4, episodes=10, horizon=40, inner_lr=0.1, seed=0)
    inner, settings = InnerUpdateSettings(inner_lr=0.1), MetaUpdateSettings(hvp=hvp)
    new, result = meta_update(spec, params, [pre], post, inner, settings)
    assert result.accepted
    assert result.loss_after < result.loss_before - 5e-4
    assert 1e-3 < result.kl <= 0.01
    assert numpy_params(new).keys() == numpy_params(params).keys()


def test_settings_default_to_the_published_ones() -> None:
    settings = MetaUpdateSettings()
    assert settings.max_kl == 0.01
    assert (settings.cg_iterations, settings.cg_residual_tol, settings.cg_damping) == (10, 1e-10, 1e-5)
    assert (settings.line_search.steps, settings.line_search.ratio) == (15, 0.8)
    assert settings.hvp == "finite_difference"
    inner = InnerUpdateSettings(inner_lr=0.1)
    assert (inner.first_order, inner.inner_loss) == (False, "log_prob")
