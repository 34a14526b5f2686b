"""Speed of one supervised meta-iteration on one core, against a plain loop over tasks in the same run.

Run by hand: ``OMP_NUM_THREADS=1 python benchmarks/supervised_step.py``. Prints a Markdown table. The loop is what
the per-task libraries do: clone the parameters, adapt one task after the other with ``torch.autograd.grad``, add up
the losses. Times are CPU seconds of the process, medians, Adam's step included, data random and in memory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from maml_rl.meta_learner import Params
from supervised.episodes import Episodes, Examples
from supervised.experiment import Experiment
from supervised.meta_step import Learner, meta_gradient
from supervised.presets import get_preset


class Loop:
    """The same architecture from ``torch.nn`` modules, one task at a time."""

    def __init__(self, preset: str, learner: Learner) -> None:
        self.learner, self.module = learner, _module(preset)
        self.params = dict(self.module.named_parameters())
        self.regression = preset == "sinusoid"
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
        if not self.regression:
            inputs = inputs.permute(0, 3, 1, 2)
        outputs = functional_call(self.module, params, (inputs,))
        loss = nn.functional.mse_loss if self.regression else nn.functional.cross_entropy
        return loss(outputs, targets)


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


def cpu_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call, after one for warming up."""
    times = []
    function()
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return float(np.median(times))


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
    print("| meta-iteration, CPU ms | plain loop | supervised | ratio | first order | of second |")
    print("|---|---|---|---|---|---|")
    for preset, repeats in (("sinusoid", 100), ("omniglot-5w1s", 7), ("miniimagenet-1shot", 3)):
        experiment = Experiment(get_preset(preset))
        config, episodes = experiment.config, batch(experiment)
        learner = dataclasses.replace(experiment.learner, prepare=lambda inputs: inputs)
        chunk = config.tasks_per_chunk or config.meta_batch_size
        loop_model = Loop(preset, learner)
        loop = cpu_seconds(lambda m=loop_model, e=episodes: m.step(e), repeats)  # type: ignore[misc]
        second = cpu_seconds(update(learner, episodes, chunk), repeats)
        first = cpu_seconds(update(dataclasses.replace(learner, first_order=True), episodes, chunk), repeats)
        print(
            f"| {preset} | {1000 * loop:.1f} | {1000 * second:.1f} | {loop / second:.2f} | "
            f"{1000 * first:.1f} | {first / second:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
