"""Users' own modules, losses and samplers: the guide's example, recurrent models, and every refusal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, mse_loss

from maml_rl.learning.meta_learner import stack_params
from maml_rl.tools.stacked_module import StackedModule
from supervised import Episodes, Examples, MetaLearner
from supervised.learning.losses import loss_of_each_task
from supervised.learning.meta_step import Learner, meta_gradient

EXAMPLE = ROOT / "supervised" / "examples" / "own_model.py"
GUIDE = ROOT / "docs" / "guide" / "supervised.md"


def test_the_example_runs_and_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 30
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    losses = [float(x) for x in re.findall(r"[\d.]+", result.stdout.removeprefix("tensor("))]
    assert losses[1] < 0.5 * losses[0]


def test_the_guide_shows_the_example_as_it_is() -> None:
    assert EXAMPLE.read_text() in GUIDE.read_text()


def lines(rng: np.random.Generator, tasks: int) -> Episodes:
    slope = rng.uniform(-2, 2, (tasks, 1, 1))
    points = rng.uniform(-1, 1, (tasks, 9, 1))
    x, y = torch.from_numpy(points).float(), torch.from_numpy(slope * points).float()
    return Episodes(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def goes_at_once(network: StackedModule, episodes: Episodes) -> bool:
    """Whether the network computes several tasks by vmap."""
    params = stack_params(network.init_params(None), episodes.tasks)
    network(params, episodes.support.inputs)
    assert network._at_once is not None
    return network._at_once


def gradients(
    module: nn.Module, episodes: Episodes, vectorize: bool | None = None, first_order: bool = False
) -> dict[str, Tensor]:
    each = loss_of_each_task(mse_loss)
    network = StackedModule(module, vectorize=vectorize)
    params = {k: v.requires_grad_() for k, v in network.init_params(np.random.default_rng(0)).items()}
    learner = Learner(network, each, each, 0.1, 2, first_order)
    return meta_gradient(learner, params, episodes, episodes.tasks)[0]


def plain_gradients(module: nn.Module, episodes: Episodes) -> list[Tensor]:
    """A loop over tasks with ``functional_call``."""
    params = {name: value for name, value in module.named_parameters() if value.requires_grad}
    total = torch.zeros(())
    for task in range(episodes.tasks):
        adapted: dict[str, Tensor] = params
        for _ in range(2):
            outputs = torch.func.functional_call(module, adapted, (episodes.support.inputs[task].clone(),))
            grads = torch.autograd.grad(
                mse_loss(outputs, episodes.support.targets[task]),
                list(adapted.values()),
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            adapted = {k: v - 0.1 * g for (k, v), g in zip(adapted.items(), grads, strict=True)}
        outputs = torch.func.functional_call(module, adapted, (episodes.query.inputs[task].clone(),))
        total = total + mse_loss(outputs, episodes.query.targets[task]) / episodes.tasks
    return list(torch.autograd.grad(total, list(params.values()), allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("norm", [False, True])
def test_a_modules_meta_gradient_is_a_plain_loops(norm: bool) -> None:
    torch.manual_seed(1)
    layers = [nn.Linear(1, 5), *([nn.BatchNorm1d(5, track_running_stats=False)] if norm else [])]
    module = nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 1)).double()
    episodes = lines(np.random.default_rng(0), 3)
    episodes = Episodes(*(Examples(x.double(), y.double()) for x, y in episodes))
    # vmap would get the scale's second derivative wrong
    assert goes_at_once(StackedModule(module), episodes) != norm
    expected = plain_gradients(module, episodes)
    for found, value in zip(gradients(module, episodes).values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)


class Plain(nn.Module):
    """A hidden layer, and what comes between the two layers; one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(1, 5), nn.Linear(5, 1), nn.Linear(2, 3)

    def between(self, hidden: Tensor) -> Tensor:
        return torch.tanh(hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.between(self.first(inputs)))


class Branching(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        return torch.tanh(hidden) if hidden.sum() > 0 else torch.sin(hidden)


class InPlace(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        inputs *= 2  # the caller's
        outputs = torch.zeros(len(inputs), 1, dtype=inputs.dtype)
        outputs += super().forward(inputs.clone())
        return outputs


class Cell(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(5, 5)

    def between(self, hidden: Tensor) -> Tensor:
        return self.cell(hidden, self.cell(hidden))[0]


class Looping(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        for _ in range(int(hidden.abs().max().item() * 3)):
            hidden = torch.tanh(hidden)
        return hidden


class Numpy(Plain):
    """Reads values, as code that branches on data does."""

    def between(self, hidden: Tensor) -> Tensor:
        return torch.tanh(hidden) * float(hidden.detach().numpy().std())


def doubles(seed: int = 0, tasks: int = 3) -> Episodes:
    episodes = lines(np.random.default_rng(seed), tasks)
    return Episodes(*(Examples(x.double(), y.double()) for x, y in episodes))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind().double()


@pytest.mark.parametrize("kind", [Plain, Branching, InPlace, Cell, Looping, Numpy])
@pytest.mark.parametrize("vectorize", [None, False])
def test_what_vmap_refuses_has_a_plain_loops_gradients(kind: type[nn.Module], vectorize: bool | None) -> None:
    module, episodes = made(kind), doubles()
    inputs = episodes.support.inputs.clone()
    expected = plain_gradients(module, episodes)
    found = gradients(module, episodes, vectorize)
    for (name, gradient), value in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-9, atol=1e-12)
        assert gradient.any() != name.startswith("unused")
    assert torch.equal(episodes.support.inputs, inputs)
    assert goes_at_once(StackedModule(module, vectorize=vectorize), episodes) == (
        kind is Plain and vectorize is None
    )


def test_vectorize_insists() -> None:
    assert goes_at_once(StackedModule(made(Plain), vectorize=True), doubles())
    with pytest.raises(ValueError, match="vectorize is True, but vmap refuses the module"):
        gradients(made(Branching), doubles(), vectorize=True)
    normed = nn.Sequential(nn.BatchNorm1d(1, track_running_stats=False), nn.Linear(1, 1)).double()
    with pytest.raises(ValueError, match="vectorize is True, but vmap gets batch normalisation wrong"):
        gradients(normed, doubles(), vectorize=True)


def test_frozen_parameters_are_neither_adapted_nor_trained() -> None:
    module = small_module()
    module[0].requires_grad_(False)
    before = {name: value.clone() for name, value in module.named_parameters()}
    learner = MetaLearner(module, mse_loss, inner_lr=0.1, learn_inner_lr="layer")
    assert set(learner.meta_params) == {"2.weight", "2.bias"}
    learner.fit(lines, iterations=3, meta_batch_size=2)
    assert set(learner.step_sizes) == {"2"}
    assert not torch.equal(learner.meta_params["2.weight"], before["2.weight"])
    support = lines(np.random.default_rng(0), 1).support
    adapted = dict(learner.adapt(support.inputs[0], support.targets[0]).named_parameters())
    changed = {name for name, value in adapted.items() if not torch.equal(value, before[name])}
    assert changed == {"2.weight", "2.bias"}
    double = small_module().double()
    double[2].requires_grad_(False)
    expected = plain_gradients(double, doubles())
    for found, value in zip(gradients(double, doubles()).values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="no parameter has requires_grad=True"):
        StackedModule(nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(ValueError, match="adapt_only holds '0', but no trainable parameter begins so: 2"):
        StackedModule(module, ("0",))


class Attention(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        query = hidden[None, None]
        return nn.functional.scaled_dot_product_attention(query, query, query)[0, 0]


class MathAttention(Attention):
    def between(self, hidden: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return super().between(hidden)


def test_attention_without_a_second_derivative_names_the_remedies_and_they_work() -> None:
    with pytest.raises(ValueError, match=r"no second derivative .*first_order=True.*sdpa_kernel"):
        gradients(made(Attention), doubles())
    assert all(value.isfinite().all() for value in gradients(made(Attention), doubles(), None, True).values())
    module, episodes = made(MathAttention), doubles()
    for found, value in zip(
        gradients(module, episodes).values(), plain_gradients(module, episodes), strict=True
    ):
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)


def test_chance_and_state_are_accepted_where_eval_turns_them_off() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(1, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 1))
    module(torch.randn(50, 1))  # statistics to use
    module = module.double().eval()
    statistics = module[1].running_mean.clone()
    expected = plain_gradients(module, doubles())
    for found, value in zip(gradients(module, doubles()).values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)
    assert torch.equal(module[1].running_mean, statistics)


class Noisy(Plain):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden + torch.randn_like(hidden)


class Counting(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def between(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden


class Pair(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs), inputs  # type: ignore[return-value]


class Constant(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Noisy, "draws random numbers"),
        (Counting, "changes the buffer calls"),
        (Pair, "forward returned tuple; it must return one tensor"),
        (Constant, "do not depend on any trainable parameter"),
    ],
)
def test_what_is_no_function_of_parameters_and_inputs_is_named(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradients(made(kind), doubles())


class Recurrent(nn.Module):
    """Predicts from a sequence's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0][:, -1])


def weighted_sums(rng: np.random.Generator, tasks: int) -> Episodes:
    """The target is the task's multiple of the sum of a sequence of four numbers."""
    factor = torch.from_numpy(rng.uniform(-2, 2, (tasks, 1, 1))).float()
    x = torch.from_numpy(rng.uniform(-1, 1, (tasks, 12, 4, 1))).float()
    y = factor * x.sum(2)
    return Episodes(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def test_a_recurrent_model_learns_to_adapt() -> None:
    torch.manual_seed(0)
    learner = MetaLearner(Recurrent(), mse_loss, inner_lr=0.1, learn_inner_lr="scalar")
    learner.fit(
        weighted_sums, iterations=150, meta_batch_size=6, meta_lr=0.02, validate_every=150, report_every=150
    )
    losses = learner.evaluate(weighted_sums, episodes=50, steps=1).losses.mean(1)
    assert losses[1] < 0.6 * losses[0]
    assert set(learner.step_sizes) == {"all"}


def test_adapt_returns_a_module_and_leaves_the_original() -> None:
    module = small_module()
    before = {name: value.clone() for name, value in module.named_parameters()}
    learner = MetaLearner(module, mse_loss, inner_lr=0.1, adapt_only=("2.",))
    support = lines(np.random.default_rng(0), 1).support
    adapted = learner.adapt(support.inputs[0], support.targets[0], steps=2)
    after = dict(adapted.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"2.weight", "2.bias"}
    assert all(torch.equal(before[name], value) for name, value in module.named_parameters())


def test_fit_writes_and_resumes_a_run(tmp_path: Path) -> None:
    settings = {"meta_batch_size": 3, "report_every": 2, "validate_every": 2, "validation_episodes": 4}
    whole = MetaLearner(small_module(), mse_loss, inner_lr=0.1)
    whole.fit(lines, iterations=6, **settings)
    parts = MetaLearner(small_module(), mse_loss, inner_lr=0.1)
    parts.fit(lines, iterations=4, output=tmp_path / "run", **settings)
    again = MetaLearner(small_module(), mse_loss, inner_lr=0.1)
    again.fit(lines, iterations=6, output=tmp_path / "run", resume=True, **settings)
    assert all(torch.equal(value, again.meta_params[name]) for name, value in whole.meta_params.items())
    assert len((tmp_path / "run" / "progress.csv").read_text().splitlines()) == 4


def fit(sampler: object = lines, loss: object = mse_loss) -> None:
    MetaLearner(small_module(), loss, inner_lr=0.1).fit(sampler, iterations=1, meta_batch_size=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: (outputs - targets) ** 2, r"the loss of a task is \[4, 1\]"),
        (lambda outputs, targets: 0.5, "the loss of a task is float"),
    ],
)
def test_a_loss_that_is_not_a_scalar(loss: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(loss=loss)


def with_support(**changes: Tensor) -> object:
    def sampler(rng: np.random.Generator, tasks: int) -> Episodes:
        episodes = lines(rng, tasks)
        return episodes._replace(support=episodes.support._replace(**changes))

    return sampler


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (with_support(targets=torch.zeros(2, 3, 1)), r"support: inputs \[2, 4, 1\] and targets \[2, 3, 1\]"),
        (
            with_support(targets=torch.zeros(5, 4, 1)),
            "support: inputs and targets hold 2 and 5 tasks; 2 were",
        ),
        (with_support(inputs=torch.zeros(2)), r"inputs \[2\]"),
        (with_support(inputs=np.zeros((2, 4, 1))), "must be torch tensors"),  # type: ignore[arg-type]
        (lambda rng, tasks: lines(rng, tasks).support, "the sampler returned Examples"),
    ],
)
def test_bad_episodes_are_named(sampler: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(sampler)


def test_labels_that_do_not_fit_the_outputs() -> None:
    def sampler(rng: np.random.Generator, tasks: int) -> Episodes:
        x, labels = torch.zeros(tasks, 4, 1), torch.full((tasks, 4), 7)
        return Episodes(Examples(x, labels), Examples(x, labels))

    learner = MetaLearner(nn.Linear(1, 3), cross_entropy, inner_lr=0.1)
    with pytest.raises(ValueError, match=r"outputs \[4, 3\] and targets \[4\] failed: Target 7 is out of"):
        learner.fit(sampler, iterations=1, meta_batch_size=2)


def test_modules_with_state_or_chance_are_refused() -> None:
    with pytest.raises(ValueError, match="module 0 tracks running statistics"):
        StackedModule(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="dropout is random"):
        StackedModule(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)))
    with pytest.raises(ValueError, match="lstm: dropout is random"):
        StackedModule(nn.ModuleDict({"lstm": nn.LSTM(1, 1, 2, dropout=0.5)}))
    with pytest.raises(ValueError, match="adapt_only holds 'head', but no trainable parameter begins so"):
        StackedModule(nn.Linear(1, 1), ("head",))
