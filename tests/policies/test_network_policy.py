"""Networks of other architectures: layers against torch's own, recurrence, and what cannot be a policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import numpy_params, random_params, small_spec
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.autograd_network import AutogradNetwork
from maml_rl.policies.heads import CategoricalHead, GaussianHead
from maml_rl.policies.layers import ACTIVATIONS
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.policy import Scratch, to_blocks
from maml_rl.policies.policy_file import load_policy, policy_from_dict, save_policy
from maml_rl.policies.structure import Image

DOUBLE = torch.float64
IMAGE = Image(1, (6, 7, 2))


def network(**settings: Any) -> NetworkPolicy:
    return small_spec(NetworkPolicy, **settings)


KINDS: dict[str, NetworkPolicy] = {
    "norm": network(layer_norm=True, activation="gelu"),
    "conv": network(observation_size=85, images=(IMAGE,), conv_filters=((3, 3, 2),), activation="relu"),
    "gru": network(recurrent_cell="gru", recurrent_size=6),
    "lstm": network(recurrent_cell="lstm", recurrent_size=6, hidden_sizes=(), head=CategoricalHead((3, 2))),
    "conv gru": network(
        observation_size=85,
        images=(IMAGE,),
        conv_filters=((3, 3, 2),),
        recurrent_cell="gru",
        recurrent_size=4,
        context_size=2,
        adapt_only=("recurrent", "context"),
    ),
}


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_cells_are_torchs(cell: str) -> None:
    policy = network(recurrent_cell=cell, recurrent_size=6, hidden_sizes=())
    params = random_params(policy)
    kind: Any = nn.GRU if cell == "gru" else nn.LSTM
    expected = kind(policy.observation_size, 6, batch_first=True).double()
    names = {"weight_ih_l0": "inputs.weight", "weight_hh_l0": "state.weight"}
    names |= {"bias_ih_l0": "inputs.bias", "bias_hh_l0": "state.bias"}
    with torch.no_grad():
        for theirs, ours in names.items():
            getattr(expected, theirs).copy_(params[f"recurrent.{ours}"])
    episodes = torch.randn(2, 3, 5, policy.observation_size, dtype=DOUBLE)
    found = policy(stack_params(params, 2), episodes).parts[0]
    for task in range(2):
        states, _ = expected(episodes[task])
        outputs = nn.functional.linear(states, params["mean.weight"], params["mean.bias"])
        torch.testing.assert_close(found[task], outputs.detach())


class Work(TorchDispatchMode):
    """Counts the numbers that torch writes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numbers += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_work_of_a_recurrent_gradient_is_proportional_to_an_episodes_steps(cell: str) -> None:
    policy = network(recurrent_cell=cell, recurrent_size=6, hidden_sizes=())
    params = {name: value[None].requires_grad_() for name, value in random_params(policy).items()}
    written = {}
    for steps in (100, 400):
        episodes = torch.randn(1, 2, steps, policy.observation_size, dtype=DOUBLE)
        loss = policy(params, episodes).parts[0].square().sum()
        with Work() as work:
            torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        written[steps] = work.numbers
    assert written[400] < 4.1 * written[100]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name: str) -> None:
    policy = network(activation=name, hidden_sizes=(5,))
    params = random_params(policy)
    x = torch.randn(1, 9, policy.observation_size, dtype=DOUBLE)
    hidden = nn.functional.linear(x, params["hidden.0.weight"], params["hidden.0.bias"])
    expected = nn.functional.linear(ACTIVATIONS[name](hidden), params["mean.weight"], params["mean.bias"])
    torch.testing.assert_close(policy(stack_params(params, 1), x).parts[0], expected)


def test_pictures_with_channels_first_and_last_are_the_same_pictures() -> None:
    first = Image(0, (2, 6, 7), channels_first=True)
    last = Image(0, (6, 7, 2))
    pictures = torch.randn(4, 6, 7, 2)
    torch.testing.assert_close(last.of(pictures.flatten(1)), first.of(pictures.movedim(-1, 1).flatten(1)))
    assert first.chw == last.chw == (2, 6, 7)


def test_each_of_two_pictures_has_convolutions_of_its_own() -> None:
    policy = network(
        observation_size=25 + 1 + 16,
        images=(Image(0, (5, 5, 1)), Image(26, (4, 4, 1))),
        conv_filters=((2, 3, 1),),
    )
    assert policy.shapes["conv.1.0.weight"] == (2, 1, 3, 3)
    assert policy.shapes["hidden.0.weight"] == (5, 1 + 2 * 9 + 2 * 4)
    assert policy.numbers == [25]
    params, x = stack_params(random_params(policy), 1), torch.randn(1, 3, 42, dtype=DOUBLE)
    before = policy(params, x).parts[0]
    for part in (slice(0, 25), slice(25, 26), slice(26, 42)):
        other = x.clone()
        other[..., part] += 1
        assert not torch.allclose(policy(params, other).parts[0], before)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_step_by_step_is_the_function_of_whole_episodes(kind: str) -> None:
    policy = KINDS[kind]
    params = random_params(policy, dtype=torch.float32)
    episodes = torch.randn(3, 4, policy.observation_size)
    batch = episodes[None] if policy.recurrent else episodes.flatten(0, 1)[None]
    expected = policy(stack_params(params, 1), batch).parts[0].reshape(3, 4, -1)
    actor = policy.actor(numpy_params(params), 3)
    found = np.stack([actor(episodes[:, t].numpy()).copy() for t in range(4)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    again = policy.actor(numpy_params(params), 3)
    np.testing.assert_allclose(again(episodes[:, 0].numpy()), found[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gru", "lstm", "conv gru"])
def test_later_steps_and_other_episodes_change_nothing(kind: str) -> None:
    policy = KINDS[kind]
    params = stack_params(random_params(policy), 1)
    episodes = torch.randn(1, 2, 4, policy.observation_size, dtype=DOUBLE)
    changed = episodes.clone()
    changed[0, 0, 2:] += 1
    before, after = (policy(params, x).parts[0][0] for x in (episodes, changed))
    torch.testing.assert_close(before[0, :2], after[0, :2])
    torch.testing.assert_close(before[1], after[1])
    assert not torch.allclose(before[0, 2:], after[0, 2:])
    earlier = episodes.clone()
    earlier[0, 0, 0] += 1
    assert not torch.allclose(policy(params, earlier).parts[0][0, 0, 3], before[0, 3])


def test_normalised_layers_start_with_a_scale_of_one() -> None:
    policy = KINDS["norm"]
    params = policy.init_params(0)
    assert (params["norm.0.weight"] == 0).all()
    hidden = nn.functional.linear(torch.ones(1, 2), params["hidden.0.weight"])
    expected = nn.functional.gelu(nn.functional.layer_norm(hidden, hidden.shape[-1:]))
    next_one = nn.functional.linear(expected, params["hidden.1.weight"])
    normal = nn.functional.gelu(nn.functional.layer_norm(next_one, next_one.shape[-1:]))
    torch.testing.assert_close(
        policy(stack_params(params, 1), torch.ones(1, 1, 2)).parts[0][0],
        nn.functional.linear(normal, params["mean.weight"]),
    )


def test_the_pattern_of_relu_units_can_be_kept() -> None:
    """Far from the first point the units are still on and off as they were there: the outputs are linear."""
    policy = network(activation="relu", hidden_sizes=(50,))
    params = random_params(policy)
    x = torch.randn(1, 20, policy.observation_size, dtype=DOUBLE)

    def at(scale: float, pattern: AutogradNetwork | None = None) -> AutogradNetwork:
        moved = {name: v * (1 + scale) if name == "hidden.0.weight" else v for name, v in params.items()}
        blocks = to_blocks(policy, stack_params(moved, 1))
        return policy.network(blocks, x, Scratch(), keep=True, pattern=pattern)

    start = at(0)
    kept = [at(scale, start).outputs.parts[0] for scale in (-3.0, 0.0, 3.0)]
    torch.testing.assert_close(kept[0] + kept[2], 2 * kept[1])
    free = [at(scale).outputs.parts[0] for scale in (-3.0, 0.0, 3.0)]
    assert not torch.allclose(free[0] + free[2], 2 * free[1], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_files_round_trip(kind: str, tmp_path: Any) -> None:
    policy = KINDS[kind]
    params = random_params(policy, dtype=torch.float32)
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy, numpy_params(params), {"env": "e"})
    loaded = load_policy(path)
    assert loaded.spec == policy
    assert policy_from_dict(policy.as_dict()) == policy
    for name, value in params.items():
        assert torch.equal(loaded.params[name], value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "swish"}, "activation is 'swish'; allowed: relu"),
        ({"recurrent_cell": "rnn"}, "recurrent is 'rnn'; allowed: None, gru, lstm"),
        ({"adapt_only": ("head",)}, "adapt_only holds 'head', but no parameter begins so: hidden.0.weight"),
        (
            {
                "observation_size": 84,
                "images": (Image(0, (6, 7, 2)),),
                "conv_filters": ((2, 5, 1), (2, 3, 1)),
            },
            r"an image of 6 x 7 is only 2 x 3 where \[2, 3, 1\] comes",
        ),
    ],
)
def test_what_is_no_policy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**settings)


def test_what_is_adapted() -> None:
    chosen = network(adapt_only=("mean", "hidden.1"))
    assert [name for name in chosen.shapes if chosen.adapted(name)] == [
        *("hidden.1.weight", "hidden.1.bias", "mean.weight", "mean.bias")
    ]
    context = network(context_size=2)
    assert [name for name in context.shapes if context.adapted(name)] == ["context"]
    assert network().adapts_all
    assert GaussianHead(3) == network().head
