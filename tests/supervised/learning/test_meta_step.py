"""The meta-gradient against closed forms, finite differences and a plain loop over tasks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from supervised_helpers import (
    NETWORKS,
    WAYS,
    along_direction,
    make_episodes,
    make_learner,
    make_params,
    numeric_gradient,
)
from torch import Tensor

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Episodes, Examples
from supervised.learning.losses import mean_squared_error
from supervised.learning.meta_step import (
    INNER_LR,
    Learner,
    adaptation_curve,
    meta_gradient,
    step_size_multiples,
)
from supervised.models.layers import EPSILON
from supervised.models.networks import MLP, ConvNet, HeadOnly, WithContext

BATCHED = [name for name in NETWORKS if name != "regression with context"]


def meta_loss(learner: Learner, params: Params, episodes: Episodes) -> Tensor:
    return meta_gradient(learner, params, episodes, episodes.tasks)[1].losses.mean()


# --- closed form


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_linear_regression_closed_form(steps: int, first_order: bool) -> None:
    """Y = w x: the support loss has curvature 2 mean(x^2), so w' and dw'/dw are known."""
    learner = Learner(
        MLP((1, 1)), mean_squared_error, mean_squared_error, 0.1, steps, first_order=first_order
    )
    episodes = make_episodes("regression")
    w = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    network = dataclasses.replace(learner, network=_WithoutBias(MLP((1, 1))))
    gradients, _ = meta_gradient(network, {"dense.0.weight": w, "dense.0.bias": bias}, episodes, 4)
    expected = []
    for task in range(4):
        x, y = episodes.support.inputs[task], episodes.support.targets[task]
        adapted, curvature = w.item(), 2 * x.square().mean().item()
        for _ in range(steps):
            adapted -= 0.1 * (2 * (x * (adapted * x - y)).mean()).item()
        x, y = episodes.query.inputs[task], episodes.query.targets[task]
        post = (2 * (x * (adapted * x - y)).mean()).item()
        expected.append(post * (1 if first_order else (1 - 0.1 * curvature) ** steps))
    assert gradients["dense.0.weight"].item() == pytest.approx(np.mean(expected))


class _WithoutBias:
    """Leaves the bias out of the adaptation."""

    def __init__(self, network: MLP) -> None:
        self.network, self.init_params = network, network.init_params

    def adapted(self, name: str) -> bool:
        return name.endswith("weight")

    def __call__(self, params: Params, inputs: Tensor) -> Tensor:
        return self.network(params, inputs)


# --- finite differences


@pytest.mark.parametrize("name", NETWORKS)
def test_meta_gradient_against_finite_differences(name: str) -> None:
    learner = make_learner(name, inner_steps=2)
    params, episodes = make_params(learner.network), make_episodes(name)
    gradients, _ = meta_gradient(learner, params, episodes, 4)
    numeric = numeric_gradient(lambda p: meta_loss(learner, p, episodes), params)
    for key, value in along_direction(gradients).items():
        assert value.item() == pytest.approx(numeric[key].item(), rel=1e-4, abs=1e-7), key


@pytest.mark.parametrize("name", ["regression", "strided", "pooled, scale adapted"])
def test_first_order_differs_from_second_order(name: str) -> None:
    learner = make_learner(name)
    params, episodes = make_params(learner.network), make_episodes(name)
    exact, measured = meta_gradient(learner, params, episodes, 4)
    first = dataclasses.replace(learner, first_order=True)
    approximate, same = meta_gradient(first, params, episodes, 4)
    torch.testing.assert_close(measured, same)  # the meta-loss is the same, its gradient is not
    for key in exact:
        if learner.network.adapted(key):
            assert not torch.allclose(exact[key], approximate[key], rtol=1e-3), key


@pytest.mark.parametrize("kind", ["scalar", "layer", "parameter"])
def test_gradient_of_learned_step_sizes(kind: str) -> None:
    learner = make_learner("strided, scale adapted", inner_steps=2, learn_inner_lr=kind)
    params = make_params(learner.network)
    params = {
        k: v if k in params else v.double().requires_grad_()
        for k, v in (params | step_size_multiples(learner, params)).items()
    }
    sizes = {name.removeprefix(INNER_LR): value for name, value in params.items() if INNER_LR in name}
    shapes = {name: tuple(value.shape) for name, value in sizes.items()}
    if kind == "scalar":
        assert shapes == {"all": ()}
    elif kind == "layer":
        layers = [f"{layer}.{i}" for layer in ("conv", "norm") for i in range(4)]
        assert shapes == dict.fromkeys([*layers, "dense"], ())
    else:
        network = {name: tuple(value.shape) for name, value in params.items() if INNER_LR not in name}
        assert shapes == network
    episodes = make_episodes("strided")
    gradients, _ = meta_gradient(learner, params, episodes, 4)
    numeric = numeric_gradient(lambda p: meta_loss(learner, p, episodes), params)
    for key, value in along_direction(gradients).items():
        assert value.item() == pytest.approx(numeric[key].item(), rel=1e-4, abs=1e-7), key


def test_equal_learned_and_fixed_step_sizes_adapt_alike() -> None:
    fixed = make_learner("regression")
    learned = dataclasses.replace(fixed, learn_inner_lr="parameter")
    params, episodes = make_params(fixed.network), make_episodes("regression")
    doubled = {
        k: v if k in params else v.double().requires_grad_()
        for k, v in (params | step_size_multiples(learned, params)).items()
    }
    a, b = meta_loss(fixed, params, episodes), meta_loss(learned, doubled, episodes)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=0)  # the step size was float32


# --- batched over tasks


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_batched_over_tasks_equals_one_at_a_time(name: str, chunk: int) -> None:
    learner = make_learner(name, inner_steps=2)
    params, episodes = make_params(learner.network), make_episodes(name)
    gradients, measured = meta_gradient(learner, params, episodes, 4)
    others, same = meta_gradient(learner, params, episodes, chunk)
    torch.testing.assert_close(measured, same, rtol=1e-12, atol=1e-12)
    assert_equal_to_1e12(gradients, others)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_computed_where_the_data_are(name: str, chunk: int) -> None:
    """On torch's ``meta`` device, which computes no numbers but refuses to mix with tensors of the CPU."""
    learner, device = make_learner(name, learn_inner_lr="layer"), torch.device("meta")
    params = make_params(learner.network)
    params = {
        key: value.detach().to(device).requires_grad_()
        for key, value in (params | step_size_multiples(learner, params)).items()
    }
    episodes = make_episodes(name).to(device)
    gradients, measured = meta_gradient(learner, params, episodes, chunk)
    curve = adaptation_curve(learner, params, episodes, 2, chunk)
    tensors = [*gradients.values(), measured.losses, curve.losses]
    assert {tensor.device for tensor in tensors} == {device}


@pytest.mark.parametrize("name", BATCHED)
def test_equals_a_plain_loop_over_tasks(name: str) -> None:
    """Written with torch's own layers, in torch's own layout, without the meta-learner."""
    learner = make_learner(name, inner_steps=2)
    params, episodes = make_params(learner.network), make_episodes(name)
    gradients, _ = meta_gradient(learner, params, episodes, 4)
    loss = torch.stack([loop_loss(learner, params, episodes, task) for task in range(4)]).mean()
    expected = torch.autograd.grad(loss, list(params.values()))
    assert_equal_to_1e12(gradients, dict(zip(params, expected, strict=True)))


def assert_equal_to_1e12(found: Params, expected: Params) -> None:
    for name, value in expected.items():
        error = (found[name] - value).abs().max() / value.abs().max().clamp_min(1e-3)
        assert error < 1e-12, (name, error)


def loop_loss(learner: Learner, params: Params, episodes: Episodes, task: int) -> Tensor:
    network, adapted = learner.network, dict(params)
    support, query = (Examples(part.inputs[task], part.targets[task]) for part in episodes)
    names = [name for name in params if network.adapted(name)]
    classes = 1 if episodes.support.targets.is_floating_point() else WAYS
    for _ in range(learner.inner_steps):
        loss = classes * plain_loss(plain_forward(network, adapted, support.inputs), support.targets)
        gradients = torch.autograd.grad(loss, [adapted[name] for name in names], create_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            adapted[name] = adapted[name] - learner.inner_lr * gradient
    return plain_loss(plain_forward(network, adapted, query.inputs), query.targets)


def plain_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets) if targets.is_floating_point() else F.cross_entropy(outputs, targets)


def plain_forward(network: object, params: Params, inputs: Tensor) -> Tensor:
    if isinstance(network, WithContext):
        context = params["context"].expand(len(inputs), *network.shape)
        return plain_forward(network.network, params, torch.cat([inputs, context], -1))
    if isinstance(network, HeadOnly):
        return plain_forward(network.network, params, inputs)
    if isinstance(network, ConvNet):
        return plain_convolutions(network, params, inputs)
    assert isinstance(network, MLP)
    hidden = inputs.flatten(1)
    for i in range(len(network.sizes) - 1):
        hidden = hidden @ params[f"dense.{i}.weight"] + params[f"dense.{i}.bias"]
        if i < len(network.sizes) - 2:
            hidden = F.relu(plain_norm(params, i, hidden) if network.norm else hidden)
    return hidden


def plain_convolutions(network: ConvNet, params: Params, images: Tensor) -> Tensor:
    hidden = images.permute(0, 3, 1, 2)
    for i in range(4):
        weight = params[f"conv.{i}.weight"]
        kernel = weight.view(3, 3, hidden.shape[1], -1).permute(3, 2, 0, 1)
        hidden = F.conv2d(hidden, kernel, stride=1 if network.pool else 2, padding=1)
        hidden = F.relu(plain_norm(params, i, hidden))
        hidden = F.max_pool2d(hidden, 2) if network.pool else hidden
    features = hidden.permute(0, 2, 3, 1).flatten(1) if network.pool else hidden.mean((2, 3))
    return features @ params["dense.weight"] + params["dense.bias"]


def plain_norm(params: Params, layer: int, hidden: Tensor) -> Tensor:
    scale, offset = params.get(f"norm.{layer}.scale"), params[f"norm.{layer}.offset"]
    return F.batch_norm(hidden, None, None, scale, offset, training=True, eps=EPSILON)


# --- roles


def test_tasks_do_not_touch_each_other() -> None:
    learner = make_learner("strided")
    params, episodes = make_params(learner.network), make_episodes("strided")
    _, before = meta_gradient(learner, params, episodes, 4)
    for role in ("support", "query"):
        part = getattr(episodes, role)
        inputs = part.inputs.clone()
        inputs[2] += torch.rand(inputs.shape[1:])
        _, after = meta_gradient(
            learner, params, episodes._replace(**{role: part._replace(inputs=inputs)}), 4
        )
        changed = ~torch.isclose(before.losses, after.losses, rtol=1e-12, atol=0)
        assert changed.tolist() == [False, False, True, False], role


def test_norm_parameters_are_meta_learned_but_not_adapted() -> None:
    learner = make_learner("strided")
    params, episodes = make_params(learner.network), make_episodes("strided")
    gradients, _ = meta_gradient(learner, params, episodes, 4)
    assert not learner.network.adapted("norm.0.offset")
    assert make_learner("strided, scale adapted").network.adapted("norm.0.scale")
    assert all(gradients[f"norm.{i}.offset"].abs().sum() > 0 for i in range(4))


def test_only_the_context_is_adapted() -> None:
    learner = make_learner("regression with context")
    assert [name for name in make_params(learner.network) if learner.network.adapted(name)] == ["context"]


def test_only_the_head_is_adapted() -> None:
    """The same as a step size of zero for all that comes before it; but not the same as MAML."""
    learner = make_learner("strided, head only", inner_steps=3)
    params, episodes = make_params(learner.network), make_episodes("strided")
    everything = make_learner("strided", inner_steps=3, learn_inner_lr="layer")
    multiples = {f"{INNER_LR}conv.{i}": torch.zeros((), requires_grad=True) for i in range(4)}
    multiples[f"{INNER_LR}dense"] = torch.ones((), requires_grad=True)
    expected = meta_loss(everything, {**params, **multiples}, episodes)
    torch.testing.assert_close(meta_loss(learner, params, episodes), expected)
    multiples[f"{INNER_LR}conv.3"] = torch.ones((), requires_grad=True)
    assert not torch.isclose(meta_loss(everything, {**params, **multiples}, episodes), expected)


def test_what_is_not_adapted_is_computed_once() -> None:
    batches = []

    class Counting(HeadOnly):
        def embed(self, params: Params, inputs: Tensor) -> Tensor:
            batches.append(inputs.shape[1])
            return super().embed(params, inputs)

    learner = make_learner("strided, head only", inner_steps=5)
    learner = dataclasses.replace(learner, network=Counting(learner.network.network))
    meta_gradient(learner, make_params(learner.network), make_episodes("strided"), 4)
    assert batches == [2 * WAYS, 3 * WAYS]  # support, query


@pytest.mark.parametrize("name", ["strided", "strided, head only"])
def test_adaptation_curve_agrees_with_training(name: str) -> None:
    for steps in (0, 1, 3):
        learner = make_learner(name, inner_steps=steps)
        params, episodes = make_params(learner.network), make_episodes(name)
        _, measured = meta_gradient(learner, params, episodes, 4)
        curve = adaptation_curve(learner, params, episodes, 3, tasks_per_chunk=3)
        torch.testing.assert_close(curve.losses[steps], measured.losses)
        assert curve.accuracies is not None
        assert torch.equal(curve.accuracies[steps], measured.accuracies)


def test_without_inner_steps_the_gradient_is_the_ordinary_one() -> None:
    learner = make_learner("regression", inner_steps=0)
    params, episodes = make_params(learner.network), make_episodes("regression")
    gradients, _ = meta_gradient(learner, params, episodes, 4)
    outputs = plain_forward(learner.network, params, episodes.query.inputs.flatten(0, 1))
    loss = F.mse_loss(outputs, episodes.query.targets.flatten(0, 1))
    for found, expected in zip(gradients.values(), torch.autograd.grad(loss, params.values()), strict=True):
        torch.testing.assert_close(found, expected)
