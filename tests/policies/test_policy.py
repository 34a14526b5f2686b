"""The Gaussian MLP policy: its three forms agree, and its densities are those of ``torch.distributions``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import numpy_params, random_params, small_spec
from torch.distributions import Independent, Normal, kl_divergence

from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.heads import LOG_STD
from maml_rl.policies.mlp import MLP


def sequential(spec: MLP, params: dict[str, torch.Tensor]) -> torch.nn.Sequential:
    """The policy's mean as an ordinary module, with the same weights."""
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[spec.activation]
    modules: list[torch.nn.Module] = []
    for name in spec.layers:
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, activation()]
    return torch.nn.Sequential(*modules[:-1])


def random_gaussians(seed: int, actions: int = 3) -> tuple[Gaussian, Gaussian, torch.Tensor]:
    torch.manual_seed(seed)
    double = torch.float64

    def gaussian() -> Gaussian:
        return Gaussian(torch.randn(2, 7, actions, dtype=double), 0.5 * torch.randn(2, actions, dtype=double))

    return gaussian(), gaussian(), torch.randn(2, 7, actions, dtype=double)


def distribution(policy: Gaussian) -> Independent:
    return Independent(Normal(policy.mean, policy.log_std.exp()[:, None].expand_as(policy.mean)), 1)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden_sizes", [(), (6,), (5, 4), (100, 100)])
def test_torch_form_is_the_plain_sequential_network(activation: str, hidden_sizes: tuple[int, ...]) -> None:
    spec = small_spec(activation=activation, hidden_sizes=hidden_sizes)
    params = random_params(spec)
    observations = torch.randn(2, 7, spec.observation_size, dtype=torch.float64)
    policy = spec(stack_params(params, 2), observations)
    torch.testing.assert_close(policy.mean, sequential(spec, params)(observations).detach())
    torch.testing.assert_close(policy.log_std, params[LOG_STD].expand(2, -1))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden_sizes", [(), (6,), (5, 4), (100, 100)])
def test_numpy_form_is_the_torch_form(activation: str, hidden_sizes: tuple[int, ...]) -> None:
    spec = small_spec(activation=activation, hidden_sizes=hidden_sizes)
    params = random_params(spec, dtype=torch.float32)
    observations = torch.randn(1, 9, spec.observation_size)
    expected = spec(stack_params(params, 1), observations)
    arrays = numpy_params(params)
    actor = spec.actor(arrays, 9)
    np.testing.assert_allclose(actor(observations[0].numpy()), expected.mean[0], rtol=1e-4, atol=1e-5)
    std = spec.head.std(arrays)
    np.testing.assert_allclose(std, expected.log_std[0].exp(), rtol=1e-6)
    assert std.dtype == np.float32


def test_relu_and_tanh_differ_in_both_forms() -> None:
    relu, tanh = small_spec(activation="relu"), small_spec(activation="tanh")
    params = random_params(relu, dtype=torch.float32)
    observations = torch.randn(1, 4, relu.observation_size)
    stacked = stack_params(params, 1)
    assert not torch.allclose(relu(stacked, observations).mean, tanh(stacked, observations).mean, atol=1e-3)
    arrays = numpy_params(params)
    x = observations[0].numpy()
    assert not np.allclose(relu.actor(arrays, 4)(x), tanh.actor(arrays, 4)(x), atol=1e-3)


def test_each_task_uses_its_own_parameters() -> None:
    spec = small_spec()
    parameters = [random_params(spec, seed) for seed in (0, 1)]
    stacked = {name: torch.stack([p[name] for p in parameters]) for name in spec.shapes}
    observations = torch.randn(2, 7, spec.observation_size, dtype=torch.float64)
    policy = spec(stacked, observations)
    for task, params in enumerate(parameters):
        alone = spec(stack_params(params, 1), observations[task : task + 1])
        torch.testing.assert_close(policy.mean[task], alone.mean[0])
        torch.testing.assert_close(policy.log_std[task], alone.log_std[0])
    assert not torch.allclose(policy.mean[0], spec(stack_params(parameters[1], 2), observations).mean[0])


def test_inference_does_not_change_the_parameters() -> None:
    spec = small_spec(activation="relu")
    arrays = numpy_params(random_params(spec))
    before = {name: value.copy() for name, value in arrays.items()}
    spec.actor(arrays, 3)(np.ones((3, spec.observation_size), np.float32))
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("seed", range(3))
def test_log_density_with_three_action_dimensions(seed: int) -> None:
    # An average over the action dimensions would be a third of this.
    policy, _, actions = random_gaussians(seed)
    torch.testing.assert_close(policy.log_prob(actions), distribution(policy).log_prob(actions))


def test_log_density_known_answer() -> None:
    policy = Gaussian(torch.zeros(1, 1, 3), torch.tensor([[0.0, math.log(2), 0.0]]))
    log_prob = policy.log_prob(torch.tensor([[[1.0, 2.0, 0.0]]]))
    expected = -0.5 * (1 + 1 + 0) - math.log(2) - 1.5 * math.log(2 * math.pi)
    assert float(log_prob) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_kl_with_three_action_dimensions(seed: int) -> None:
    p, q, _ = random_gaussians(seed)
    torch.testing.assert_close(p.kl(q), kl_divergence(distribution(p), distribution(q)))
    # The direction matters: a swap of the arguments must not pass the line above.
    assert not torch.allclose(p.kl(q), q.kl(p), rtol=1e-2)


def test_kl_of_a_policy_to_itself_is_exactly_zero() -> None:
    policy, _, _ = random_gaussians(0)
    assert (policy.kl(policy) == 0).all()
    single = Gaussian(policy.mean.float(), policy.log_std.float())
    assert (single.kl(single) == 0).all()


def test_kl_is_never_negative_near_zero() -> None:
    policy, other, _ = random_gaussians(1)
    p = Gaussian(policy.mean.float(), policy.log_std.float())
    q = Gaussian(p.mean + 1e-4 * other.mean.float(), p.log_std + 1e-2 * other.log_std.float())
    assert (p.kl(q) >= 0).all()


def test_detach_cuts_the_graph() -> None:
    policy = Gaussian(torch.zeros(1, 1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True))
    assert not any(x.requires_grad for x in policy.detach().parts)


def test_initialisation() -> None:
    spec = MLP.gaussian(observation_size=4, action_size=2, hidden_sizes=(100, 50), initial_std=0.5)
    params = spec.init_params(0)
    assert {name: tuple(value.shape) for name, value in params.items()} == spec.shapes
    for name in spec.layers:
        weight = params[f"{name}.weight"]
        bound = math.sqrt(6 / sum(weight.shape))
        assert weight.abs().max() <= bound
        # Uniform, not merely bounded: the deviation of U(-b, b) is b / sqrt(3).
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
        assert float(weight.abs().max()) > 0.9 * bound
        assert (params[f"{name}.bias"] == 0).all()
    torch.testing.assert_close(params[LOG_STD].exp(), torch.full((2,), 0.5))
    assert all(value.dtype == torch.float32 for value in params.values())


def test_defaults_are_those_of_the_paper() -> None:
    spec = MLP.gaussian(2, 2)
    assert (spec.hidden_sizes, spec.activation, spec.head.initial_std, spec.head.min_std) == (
        (100, 100),
        "relu",
        1.0,
        1e-6,
    )
    assert list(spec.shapes) == [
        *("hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias"),
        *("mean.weight", "mean.bias", "log_std"),
    ]


def test_initialisation_is_a_function_of_the_seed_alone() -> None:
    spec = small_spec()
    first = spec.init_params(3)
    torch.manual_seed(99)
    again, other = spec.init_params(3), spec.init_params(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mean.weight"], other["mean.weight"])


def test_standard_deviation_never_falls_below_the_minimum() -> None:
    spec = small_spec(min_std=0.1)
    params = random_params(spec, dtype=torch.float32)
    params[LOG_STD] = torch.tensor([-10.0, 0.0, math.log(0.2)])
    expected = [0.1, 1.0, 0.2]
    policy = spec(stack_params(params, 1), torch.zeros(1, 1, 2))
    np.testing.assert_allclose(policy.log_std.exp()[0], expected, rtol=1e-5)
    np.testing.assert_allclose(spec.head.std(numpy_params(params)), expected, rtol=1e-5)


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation is 'swish'; allowed: relu, tanh"):
        MLP.gaussian(2, 2, activation="swish")
