"""Users' modules as policies: the same function as a built-in network, and refusals with the reason."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from curvature_helpers import EXACT, INNER_LR, TASKS, random_blocks
from helpers import numpy_params, random_params, random_samples, relative_error, small_spec
from torch import Tensor, nn

from maml_rl.learning.curvature import InnerStep
from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.heads import CategoricalHead, GaussianHead
from maml_rl.policies.mlp import MLP
from maml_rl.policies.module_policy import ModuleError, ModulePolicy, UnknownModule
from maml_rl.policies.policy import Scratch, to_blocks
from maml_rl.policies.policy_file import load_policy, save_policy
from maml_rl.policies.structure import Leaf, structured

HEAD = GaussianHead(3)


class Same(nn.Module):
    """``small_spec()`` under the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(2, 5), nn.Linear(5, 4)])
        self.mean = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.mean(x)


class Remembers(nn.Module):
    """A GRU with a learned initial state."""

    def __init__(self, causal: bool = True, keeps: bool = True) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)
        self.first = nn.Parameter(torch.full((4,), 0.3))
        self._causal, self._keeps = causal, keeps

    def initial_state(self, n: int) -> Tensor:
        return self.first.expand(1, n, 4)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if not self._causal:
            x = x + x.mean(1, keepdim=True)
        states, after = self.cell(x, state.contiguous())
        return self.out(states), after if self._keeps else state


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x[:, None])[0][:, 0]


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(())


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Broken(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such layer\nand more")


class Clash(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 3)
        self.log_std = nn.Parameter(torch.zeros(3))


def policy_of(make: Any, **settings: Any) -> ModulePolicy:
    return ModulePolicy(make, settings.pop("head", HEAD), 2, name="m:Module", **settings)


def test_a_module_is_the_same_policy_as_the_built_in_network() -> None:
    """Outputs, gradient, adapted parameters and products, in float64."""
    own, mlp = policy_of(Same), small_spec()
    assert own.shapes == mlp.shapes
    params = [random_params(mlp, seed) for seed in range(TASKS)]
    stacked = {name: torch.stack([p[name] for p in params]) for name in mlp.shapes}
    samples = random_samples(mlp, [6, 4, 5])
    torch.testing.assert_close(
        own(stacked, samples.observations).parts, mlp(stacked, samples.observations).parts
    )
    steps = [
        InnerStep(policy, to_blocks(policy, stacked), samples, INNER_LR, Scratch()) for policy in (own, mlp)
    ]
    assert relative_error(steps[0].adapted, steps[1].adapted) < EXACT
    v = random_blocks(to_blocks(mlp, stacked), 1)
    for product in ("hessian_product", "jvp", "vjp"):
        found, expected = (getattr(step, product)(v) for step in steps)
        assert relative_error(found, expected) < EXACT


@pytest.mark.parametrize("make", [Same, Remembers], ids=["plain", "recurrent"])
def test_acting_step_by_step_is_the_function_of_whole_episodes(make: Any) -> None:
    policy = policy_of(make)
    assert policy.recurrent == (make is Remembers)
    params = random_params(policy, dtype=torch.float32)
    episodes = torch.randn(3, 4, 2)
    batch = episodes[None] if policy.recurrent else episodes.flatten(0, 1)[None]
    expected = policy(stack_params(params, 1), batch).parts[0].reshape(3, 4, -1).detach()
    actor = policy.actor(numpy_params(params), 3)
    found = np.stack([actor(episodes[:, t].numpy()).copy() for t in range(4)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_each_task_has_parameters_and_a_state_of_its_own() -> None:
    policy = policy_of(Remembers)
    params = [random_params(policy, seed) for seed in range(2)]
    stacked = {name: torch.stack([p[name] for p in params]) for name in policy.shapes}
    episodes = torch.randn(2, 3, 4, 2).double()
    together = policy(stacked, episodes).parts[0]
    for task in range(2):
        alone = policy(stack_params(params[task], 1), episodes[task : task + 1]).parts[0]
        torch.testing.assert_close(together[task], alone[0])
    moved = {**stacked, "first": stacked["first"] + 1}
    assert not torch.allclose(policy(moved, episodes).parts[0][:, :, 0], together[:, :, 0])


def test_where_training_starts() -> None:
    fresh = [policy_of(Same).init_params(seed) for seed in (0, 0, 1)]
    assert torch.equal(fresh[0]["mean.weight"], fresh[1]["mean.weight"])
    assert not torch.equal(fresh[0]["mean.weight"], fresh[2]["mean.weight"])
    state = torch.get_rng_state()
    module = Same()
    torch.set_rng_state(state)
    given = policy_of(lambda: module)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    for seed in (0, 1):
        assert torch.equal(given.init_params(seed)["mean.weight"], module.mean.weight)


def test_frozen_parameters_are_no_parameters() -> None:
    module = Same()
    module.hidden[0].requires_grad_(False)
    policy = policy_of(lambda: module)
    assert not any(name.startswith("hidden.0") for name in policy.shapes)
    chosen = policy_of(Same, adapt_only=("mean", "log_std"))
    assert [name for name in chosen.shapes if chosen.adapted(name)] == ["mean.weight", "mean.bias", "log_std"]


def test_observations_come_in_the_structure_of_their_space() -> None:
    structure = {"a": Leaf(0, (2, 3), 6), "b": (Leaf(6, (), 1), Leaf(7, (4,), 4))}
    vectors = torch.arange(22.0).view(2, 11)
    found = structured(structure, vectors)
    assert found["a"].shape == (2, 2, 3)
    assert found["b"][0].tolist() == [6, 17]
    assert found["b"][1][1].tolist() == [18, 19, 20, 21]

    class Reads(nn.Linear):
        def forward(self, x: Any) -> Tensor:
            return super().forward(torch.cat([x["a"].flatten(-2), x["b"][0][..., None], x["b"][1]], -1))

    policy = ModulePolicy(partial(Reads, 11, 3), HEAD, 11, name="m:Reads", structure=structure)
    params = random_params(policy)
    x = torch.randn(1, 5, 11).double()
    expected = nn.functional.linear(x, params["weight"], params["bias"])
    torch.testing.assert_close(policy(stack_params(params, 1), x).parts[0], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Cell, r"contains GRU, but has no initial_state\(n\)"),
        (partial(nn.Linear, 2, 4), r"returned outputs of shape \(3, 4\); the actions need \(3, 3\)"),
        (partial(nn.Linear, 5, 3), "m:Module: RuntimeError: .*shapes"),
        (partial(Noisy, 2, 3), "forward draws random numbers"),
        (Counting, "forward changes the buffer calls"),
        (partial(Broken, 2, 3), "m:Module: RuntimeError: no such layer$"),
        (Clash, "has a parameter log_std, which the policy has beside it"),
        (partial(Remembers, causal=False), "step by step are not those of the whole episode"),
        (partial(Remembers, keeps=False), "step by step are not those of the whole episode"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "tracks running statistics"),
        (
            lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            "depends on the other observations of its batch|Expected more than 1 value",
        ),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout()), "dropout is random"),
        (lambda: 3, "made 3; it must make a torch.nn.Module"),
        (lambda: 1 / 0, "cannot be made: ZeroDivisionError"),
        (lambda: nn.Linear(2, 3).requires_grad_(False), "no parameter has requires_grad=True"),
    ],
)
def test_what_cannot_be_a_policy_says_why(make: Any, message: str) -> None:
    with pytest.raises(ModuleError, match=message) as raised:
        policy_of(make)
    assert "\n" not in str(raised.value)


def test_adapt_only_must_name_a_parameter() -> None:
    with pytest.raises(ValueError, match=r"adapt_only holds 'head', but no parameter begins so: hidden.0"):
        policy_of(Same, adapt_only=("head",))


def test_a_file_does_not_choose_the_module(tmp_path: Any) -> None:
    policy = policy_of(Same, adapt_only=("mean",))
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy, numpy_params(policy.init_params(0)), {"env": "e"})
    loaded = load_policy(path).spec
    assert isinstance(loaded, UnknownModule)
    assert loaded.shapes == policy.shapes
    assert loaded.adapted("mean.weight")
    assert not loaded.adapted("hidden.0.weight")
    for act in (
        lambda: loaded({}, torch.ones(1)),
        lambda: loaded.actor({}, 1),
        lambda: loaded.init_params(0),
    ):
        with pytest.raises(
            ModuleError, match=r"module is 'm:Module', and files do not choose .* --module m:Module"
        ):
            act()
    assert loaded.resolved(policy) is policy
    other = ModulePolicy(Same, HEAD, 2, name="other:Module")
    for wrong in (None, other, policy_of(Same)):  # the last has another adapt_only
        with pytest.raises(ModuleError):
            loaded.resolved(wrong)


def test_policies_travel_to_other_processes() -> None:
    policy = ModulePolicy(Same, CategoricalHead((3,)), 2, name="m:Same")
    again = pickle.loads(pickle.dumps(policy))
    params, x = stack_params(random_params(policy), 1), torch.ones(1, 2, 2).double()
    torch.testing.assert_close(again(params, x).parts, policy(params, x).parts)
    assert not isinstance(policy, MLP)


@pytest.mark.parametrize("make", [Same, Remembers], ids=["plain", "recurrent"])
def test_threads_do_not_disturb_each_other(make: Any) -> None:
    """A module's parameters are replaced in place while it is called: every thread has one of its own."""
    policy = policy_of(make)
    params = [random_params(policy, seed) for seed in range(40)]
    shape = (1, 8, 30, 2) if policy.recurrent else (1, 400, 2)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()

    def outputs(own: dict[str, Tensor]) -> Tensor:
        return policy(stack_params(own, 1), x).parts[0].detach()

    expected = [outputs(own) for own in params]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(outputs, params), expected, strict=True):
            torch.testing.assert_close(found, alone)
