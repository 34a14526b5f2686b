"""Distributions of every kind of action: against torch's own, and as rollouts sample from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from maml_rl.policies.distributions import Distribution, distribution
from maml_rl.policies.heads import (
    LOG_STD,
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    Head,
    StateGaussianHead,
    make_head,
)

HEADS = [
    GaussianHead(3, initial_std=0.5, min_std=0.1),
    StateGaussianHead(2),
    CategoricalHead((4,)),
    CategoricalHead((3, 2, 4)),
    BernoulliHead(3),
]
SHAPES = [(2, 7), (2, 3, 5)]
"""Tasks and samples; tasks, episodes and steps."""


def params(head: Head, tasks: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(tasks, *shape, generator=generator).double() for name, shape in head.shapes.items()
    }


def policy(head: Head, shape: tuple[int, ...], seed: int = 0) -> Distribution:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(*shape, head.outputs, generator=generator, dtype=torch.double)
    return distribution(head, outputs, params(head, shape[0]))


def reference(head: Head, distribution: Distribution) -> list[Any]:
    """Torch's distributions of the action's variables, whose values are added up."""
    outputs, *shared = distribution.parts
    if isinstance(head, CategoricalHead):
        return [TorchCategorical(logits=logits) for logits in outputs.split(head.counts, -1)]
    if isinstance(head, BernoulliHead):
        return [TorchBernoulli(logits=logits) for logits in outputs.unbind(-1)]
    if isinstance(head, StateGaussianHead):
        mean, log_std = outputs[..., : head.size], outputs[..., head.size :]
        return [Independent(Normal(mean, log_std.exp()), 1)]
    std = shared[0].clamp(min=math.log(0.1)).exp()
    while std.ndim < outputs.ndim:
        std = std[:, None]
    return [Independent(Normal(outputs, std.expand_as(outputs)), 1)]


def split(head: Head, actions: Tensor) -> tuple[Tensor, ...]:
    return actions.unbind(-1) if isinstance(head, CategoricalHead | BernoulliHead) else (actions,)


def actions_of(head: Head, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if isinstance(head, CategoricalHead | BernoulliHead):
        counts = torch.tensor(getattr(head, "counts", [2] * head.action_size))
        return (torch.rand(*shape, head.action_size, generator=generator) * counts).floor().double()
    return torch.randn(*shape, head.action_size, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("head", HEADS)
def test_densities_divergences_and_entropies_are_torchs(head: Head, shape: tuple[int, ...]) -> None:
    p, q, actions = policy(head, shape), policy(head, shape, 1), actions_of(head, shape)
    own, other = reference(head, p), reference(head, q)
    expected = sum(d.log_prob(a) for d, a in zip(own, split(head, actions), strict=True))
    torch.testing.assert_close(p.log_prob(actions), expected)
    torch.testing.assert_close(p.kl(q), sum(kl_divergence(a, b) for a, b in zip(own, other, strict=True)))
    torch.testing.assert_close(p.entropy(), sum(d.entropy() for d in own))
    assert p.entropy().shape == shape
    assert (p.kl(p).abs() < 1e-12).all()


@pytest.mark.parametrize("head", HEADS)
def test_some_of_the_samples_and_tasks(head: Head) -> None:
    p, actions = policy(head, (3, 4, 5)), actions_of(head, (3, 4, 5))
    index, tasks = torch.tensor([2, 0]), torch.tensor([1])
    torch.testing.assert_close(p.at(index).log_prob(actions[:, index]), p.log_prob(actions)[:, index])
    torch.testing.assert_close(p.of_tasks(tasks).log_prob(actions[tasks]), p.log_prob(actions)[tasks])
    assert type(p.at(index)) is type(p)
    assert not any(part.requires_grad for part in p.detach().parts)
    assert all(part.requires_grad for part in p.leaf().parts)


@pytest.mark.parametrize("head", HEADS)
def test_rollouts_sample_from_the_distribution(head: Head) -> None:
    """Frequencies of categories and bits, mean and deviation of numbers, of 40000 samples."""
    count = 40000
    outputs = np.linspace(-1, 1, head.outputs, dtype=np.float32)[None]
    arrays = {name: np.full(shape, -0.5, np.float32) for name, shape in head.shapes.items()}
    noise = head.noise(np.random.default_rng(0), 1, count, arrays)[0]
    actions = head.act(np.repeat(outputs, count, 0), noise)
    assert actions.shape == (count, head.action_size)
    assert actions.dtype == np.float32
    stacked = {name: torch.from_numpy(value)[None] for name, value in arrays.items()}
    p = distribution(head, torch.from_numpy(outputs)[None], stacked)
    for i, variable in enumerate(reference(head, p)):
        if isinstance(head, CategoricalHead | BernoulliHead):
            for value in range(head.counts[i] if isinstance(head, CategoricalHead) else 2):
                expected = float(variable.log_prob(torch.tensor(float(value))).exp())
                assert np.mean(actions[:, i] == value) == pytest.approx(expected, abs=0.012)
        else:
            np.testing.assert_allclose(actions.mean(0), variable.mean[0, 0], atol=0.05)
            np.testing.assert_allclose(actions.std(0), variable.stddev[0, 0], rtol=0.03)


@pytest.mark.parametrize("head", HEADS)
def test_noise_of_more_steps_goes_on(head: Head) -> None:
    """Drawn at once or in parts: rollouts draw as they need it."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in head.shapes.items()}
    once, parts = np.random.default_rng(1), np.random.default_rng(1)
    together = head.noise(once, 6, 3, arrays)
    np.testing.assert_array_equal(
        together, np.concatenate([head.noise(parts, steps, 3, arrays) for steps in (2, 4)])
    )
    assert len(np.unique(together)) == together.size


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_actions_of_outputs_that_are_not_finite_are_not_numbers(head: Head, bad: float) -> None:
    outputs = np.zeros((2, head.outputs), np.float32)
    outputs[1, 0] = bad
    arrays = {name: np.zeros(shape, np.float32) for name, shape in head.shapes.items()}
    with np.errstate(all="ignore"):
        actions = head.act(outputs, head.noise(np.random.default_rng(0), 1, 2, arrays)[0])
    assert np.isfinite(actions[0]).all()
    assert not np.isfinite(actions[1]).all()


@pytest.mark.parametrize("head", HEADS)
def test_descriptions_round_trip(head: Head) -> None:
    assert make_head(head.as_dict()) == head


@pytest.mark.parametrize(
    ("described", "error"),
    [
        ({"kind": "beta", "size": 2}, ValueError),
        ({"size": 2}, KeyError),
        ({"kind": "bernoulli", "size": 0}, ValueError),
        ({"kind": "categorical", "counts": []}, ValueError),
        ({"kind": "bernoulli", "size": 2, "colour": 1}, TypeError),
    ],
)
def test_what_describes_no_head(described: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        make_head(described)


def test_only_gaussians_have_a_deviation_to_adapt() -> None:
    assert [list(head.shapes) for head in HEADS] == [[LOG_STD], [], [], [], []]
    np.testing.assert_array_equal(HEADS[0].initial_values()[LOG_STD], np.full(3, math.log(0.5), np.float32))
