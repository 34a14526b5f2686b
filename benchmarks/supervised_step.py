"""Speed of one supervised meta-iteration on one core, against loops over tasks in the same run.

Run by hand: ``OMP_NUM_THREADS=1 python benchmarks/supervised_step.py``; it prints a table. The plain loop is what
a careful user writes: adapt one task after the other with ``torch.autograd.grad``, add up the losses. learn2learn
is measured where it is installed, or ``learn2learn/{algorithms/maml.py,algorithms/base_learner.py,utils}`` of its
0.2.0 are on the Python path (its compiled data loaders, not used here, do not build on Python 3.11). Times are CPU
seconds of the process, medians over rounds in which the contestants take turns, Adam's step included, data random
and in memory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.memory import keep_freed_memory
from supervised.data.episodes import Episodes, Examples
from supervised.experiments.experiment import Experiment
from supervised.experiments.presets import get_preset
from supervised.learning.meta_step import Learner, meta_gradient

try:
    from learn2learn.algorithms.maml import MAML  # type: ignore[import-not-found]
except ImportError:
    MAML = None

CALLS_PER_TURN = 4


class Loop:
    """The same architecture from ``torch.nn`` modules, one task at a time."""

    def __init__(self, preset: str, learner: Learner) -> None:
        self.learner, self.module = learner, _module(preset)
        self.params = dict(self.module.named_parameters())
        self.adam = torch.optim.Adam(self.params.values(), 1e-3)

    def step(self, episodes: Episodes) -> None:
        """One meta-update."""
        self.adam.zero_grad()
        total = torch.zeros(())
        for task in range(episodes.tasks):
            support, query = ((part.inputs[task], part.targets[task]) for part in episodes)
            adapted: Params = {name: value.clone() for name, value in self.params.items()}
            for _ in range(self.learner.inner_steps):
                gradients = torch.autograd.grad(
                    self._loss(adapted, *support),
                    list(adapted.values()),
                    create_graph=not self.learner.first_order,
                )
                adapted = {
                    name: value - self.learner.inner_lr * gradient
                    for (name, value), gradient in zip(adapted.items(), gradients, strict=True)
                }
            total = total + self._loss(adapted, *query) / episodes.tasks
        total.backward()
        self.adam.step()

    def _loss(self, params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        return _loss(functional_call(self.module, params, (_channels_first(inputs),)), targets)


class Learn2Learn:
    """The same with learn2learn's ``MAML``, as its examples use it."""

    def __init__(self, preset: str, learner: Learner) -> None:
        self.learner = learner
        self.maml = MAML(_module(preset), lr=learner.inner_lr, first_order=learner.first_order)
        self.adam = torch.optim.Adam(self.maml.parameters(), 1e-3)

    def step(self, episodes: Episodes) -> None:
        """One meta-update."""
        self.adam.zero_grad()
        for task in range(episodes.tasks):
            support, query = ((part.inputs[task], part.targets[task]) for part in episodes)
            clone = self.maml.clone()
            for _ in range(self.learner.inner_steps):
                clone.adapt(_loss(clone(_channels_first(support[0])), support[1]))
            (_loss(clone(_channels_first(query[0])), query[1]) / episodes.tasks).backward()
        self.adam.step()


def _channels_first(inputs: Tensor) -> Tensor:
    return inputs.permute(0, 3, 1, 2) if inputs.dim() == 4 else inputs


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return nn.functional.mse_loss(outputs, targets)
    return nn.functional.cross_entropy(outputs, targets)


def _module(preset: str) -> nn.Module:
    if preset == "sinusoid":
        return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    pool, channels, filters = (True, 3, 32) if preset.startswith("mini") else (False, 1, 64)
    layers: list[nn.Module] = []
    for block in range(4):
        convolution = nn.Conv2d(filters if block else channels, filters, 3, 1 if pool else 2, 1)
        layers += [convolution, nn.BatchNorm2d(filters, track_running_stats=False), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    layers += [nn.Flatten()] if pool else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(800 if pool else filters, 5))


def batch(experiment: Experiment) -> Episodes:
    """Random tasks of the preset's size."""
    config, rng = experiment.config, np.random.default_rng(0)
    if config.problem == "sinusoid":
        return experiment.training_sampler(rng, config.meta_batch_size)
    size, channels = (84, 3) if config.problem == "miniimagenet" else (28, 1)

    def examples(n: int) -> Examples:
        shape = (config.meta_batch_size, config.ways * n, size, size, channels)
        labels = torch.arange(config.ways).repeat_interleave(n).expand(shape[:2])
        return Examples(torch.from_numpy(rng.random(shape, np.float32)), labels)

    return Episodes(examples(config.shots), examples(config.query))


def cpu_seconds(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU time of a call of each, of ``rounds`` turns of several calls.

    The first call of a turn is not counted: training calls the same function all the time, too, and finds it in the
    processor's caches.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, function in contestants.items():
            for call in range(CALLS_PER_TURN):
                started = time.process_time()
                function()
                if call:
                    times[name].append(time.process_time() - started)
    return {name: float(np.median(values)) for name, values in times.items()}


def update(learner: Learner, episodes: Episodes, chunk: int) -> Callable[[], None]:
    """The package's meta-update."""
    params = {
        name: value.requires_grad_()
        for name, value in learner.network.init_params(np.random.default_rng(0)).items()
    }
    adam = torch.optim.Adam(params.values(), 1e-3, fused=True)

    def run() -> None:
        gradients, _ = meta_gradient(learner, params, episodes, chunk)
        for name, value in params.items():
            value.grad = gradients[name]
        adam.step()

    return run


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does; the others gain by it, too
    names = ("plain loop", "learn2learn", "supervised", "first order")
    ratios = ("loop / supervised", "learn2learn / supervised", "first / second order")
    print("| meta-iteration, CPU ms | " + " | ".join([*names, *ratios]) + " |")
    print("|---|" + "---|" * (len(names) + len(ratios)))
    for preset, rounds in (("sinusoid", 30), ("omniglot-5w1s", 3), ("miniimagenet-1shot", 1)):
        experiment = Experiment(get_preset(preset))
        config, episodes = experiment.config, batch(experiment)
        learner = dataclasses.replace(experiment.learner, prepare=lambda inputs: inputs)
        chunk = config.tasks_per_chunk or config.meta_batch_size
        contestants: dict[str, Callable[[], None]] = {
            "plain loop": partial(Loop(preset, learner).step, episodes),
            "supervised": update(learner, episodes, chunk),
            "first order": update(dataclasses.replace(learner, first_order=True), episodes, chunk),
        }
        if MAML is not None:
            contestants["learn2learn"] = partial(Learn2Learn(preset, learner).step, episodes)
        seconds = {name: float("nan") for name in names} | cpu_seconds(contestants, rounds)
        second = seconds["supervised"]
        cells = [f"{1000 * seconds[name]:.1f}" for name in names]
        cells += [f"{seconds[name] / second:.2f}" for name in ("plain loop", "learn2learn", "first order")]
        print(f"| {preset} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
