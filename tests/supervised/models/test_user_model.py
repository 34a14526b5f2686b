"""Users' own modules, losses and samplers: the README's example, recurrent models, and every refusal."""

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
from torch.nn.functional import cross_entropy, mse_loss

from supervised import Episodes, Examples, MetaLearner
from supervised.learning.losses import loss_of_each_task
from supervised.learning.meta_step import Learner, meta_gradient
from supervised.models.user_model import ModuleNetwork

EXAMPLE = ROOT / "supervised" / "examples" / "own_model.py"
README = ROOT / "README.md"


def test_the_example_runs_and_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 30
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    losses = [float(x) for x in re.findall(r"[\d.]+", result.stdout.removeprefix("tensor("))]
    assert losses[1] < 0.5 * losses[0]


def test_the_readme_shows_the_example_as_it_is() -> None:
    text = README.read_text()
    if "own_model.py" in text:
        assert EXAMPLE.read_text() in text


def lines(rng: np.random.Generator, tasks: int) -> Episodes:
    slope = rng.uniform(-2, 2, (tasks, 1, 1))
    points = rng.uniform(-1, 1, (tasks, 9, 1))
    x, y = torch.from_numpy(points).float(), torch.from_numpy(slope * points).float()
    return Episodes(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def gradients(module: nn.Module, episodes: Episodes) -> dict[str, Tensor]:
    each = loss_of_each_task(mse_loss)
    network = ModuleNetwork(module)
    params = {k: v.requires_grad_() for k, v in network.init_params(np.random.default_rng(0)).items()}
    return meta_gradient(Learner(network, each, each, 0.1, 2), params, episodes, episodes.tasks)[0]


def plain_gradients(module: nn.Module, episodes: Episodes) -> list[Tensor]:
    """A loop over tasks with ``functional_call``."""
    params = dict(module.named_parameters())
    total = torch.zeros(())
    for task in range(episodes.tasks):
        adapted: dict[str, Tensor] = params
        for _ in range(2):
            outputs = torch.func.functional_call(module, adapted, (episodes.support.inputs[task],))
            grads = torch.autograd.grad(
                mse_loss(outputs, episodes.support.targets[task]), list(adapted.values()), create_graph=True
            )
            adapted = {k: v - 0.1 * g for (k, v), g in zip(adapted.items(), grads, strict=True)}
        outputs = torch.func.functional_call(module, adapted, (episodes.query.inputs[task],))
        total = total + mse_loss(outputs, episodes.query.targets[task]) / episodes.tasks
    return list(torch.autograd.grad(total, list(params.values())))


@pytest.mark.parametrize("norm", [False, True])
def test_a_modules_meta_gradient_is_a_plain_loops(norm: bool) -> None:
    torch.manual_seed(1)
    layers = [nn.Linear(1, 5), *([nn.BatchNorm1d(5, track_running_stats=False)] if norm else [])]
    module = nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 1)).double()
    episodes = lines(np.random.default_rng(0), 3)
    episodes = Episodes(*(Examples(x.double(), y.double()) for x, y in episodes))
    assert ModuleNetwork(module).one_by_one == norm  # vmap would get the scale's second derivative wrong
    expected = plain_gradients(module, episodes)
    for found, value in zip(gradients(module, episodes).values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)


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
        ModuleNetwork(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="dropout is random"):
        ModuleNetwork(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)))
    with pytest.raises(ValueError, match=r"adapt_only is \('head',\); no parameter begins so"):
        ModuleNetwork(nn.Linear(1, 1), ("head",))
