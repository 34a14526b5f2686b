"""Where training begins when it begins with an earlier model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from supervised.learning.losses import accuracy, cross_entropy
from supervised.learning.meta_step import INNER_LR, Learner
from supervised.learning.trainer import StartingPoint
from supervised.models.networks import MLP, HeadOnly


def learner(outputs: int, **changes: object) -> Learner:
    network = MLP((3, 4, outputs))
    found = Learner(network, cross_entropy, cross_entropy, inner_lr=0.1, accuracy=accuracy)
    return replace(found, **changes)  # type: ignore[arg-type]


def trained(outputs: int) -> dict[str, torch.Tensor]:
    return MLP((3, 4, outputs)).init_params(np.random.default_rng(5))


def test_the_same_network_begins_with_the_same_parameters() -> None:
    params = trained(2)
    found = StartingPoint(params).for_network(learner(2))
    assert found.keys() == params.keys()
    assert all(torch.equal(found[name], value) for name, value in params.items())


def test_the_last_layer_begins_at_zero_for_another_number_of_outputs() -> None:
    params, wanted = trained(2), learner(5)
    found, head = StartingPoint(params).for_network(wanted), wanted.network.head  # type: ignore[attr-defined]
    for name, value in found.items():
        if name.startswith(f"{head}."):
            assert value.shape[-1] == 5
            assert not value.any()
        else:
            assert torch.equal(value, params[name])


def test_a_network_of_another_shape_is_refused() -> None:
    other = MLP((3, 6, 2)).init_params(np.random.default_rng(5))
    with pytest.raises(ValueError, match="do not fit the network's"):
        StartingPoint(other).for_network(learner(2))


def test_step_sizes_begin_fresh_or_at_zero_where_nothing_was_adapted() -> None:
    wanted = learner(2, learn_inner_lr="layer")
    adapted = HeadOnly(MLP((3, 4, 2))).adapted
    for start, expected in (
        (StartingPoint(trained(2)), [1.0, 1.0]),
        (StartingPoint(trained(2), adapted), [0.0, 1.0]),
    ):
        found = start.for_network(wanted)
        sizes = [float(value) for name, value in found.items() if name.startswith(INNER_LR)]
        assert sizes == expected
