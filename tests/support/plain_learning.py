"""Meta-learning written plainly: one task at a time with torch's own layers, straight from a configuration.

It uses nothing of ``supervised``'s mathematics: something to compare an experiment's numbers with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maml_rl.learning.meta_learner import Params
from supervised.data.episodes import Episodes, Examples
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.experiment import Experiment

NORM_EPSILON = 1e-3
"""Of batch normalisation in the authors' code (its framework's default), not torch's 1e-5."""


def generic_params(experiment: Experiment) -> Params:
    """Meta-parameters of an experiment with noise on each: none is zero, none is one."""
    params = experiment.trainer(torch.device("cpu")).params or experiment.learner.network.init_params(
        np.random.default_rng(0)
    )
    rng = np.random.default_rng(7)
    noise = {name: 0.2 * torch.from_numpy(rng.standard_normal(value.shape)) for name, value in params.items()}
    return {name: (value + noise[name]).float() for name, value in params.items()}


@dataclass(frozen=True)
class Plain:
    """The model and the inner loop that a configuration asks for.

    Attributes:
        last: name of the network's last layer.
    """

    config: ExperimentConfig
    last: str

    @property
    def images(self) -> bool:
        return self.config.problem != "sinusoid"

    def adapts(self, name: str) -> bool:
        """Whether the inner loop changes a parameter."""
        if self.config.method == "context-vector":
            return name == "context"
        if self.config.method == "anil":
            return name.startswith(f"{self.last}.")
        return self.config.adapt_norm or not name.startswith("norm.")

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """The last layer's inputs ``[n, features]``."""
        hidden = inputs.double() / 255 if self.images else inputs.double()
        if "context" in params:
            context = params["context"].expand(len(hidden), *params["context"].shape)
            hidden = torch.cat([hidden, context], -1)
        if self.images and not self.config.hidden_sizes:
            return self._convolutions(params, hidden)
        hidden = hidden.flatten(1)
        for i in range(len(self.config.hidden_sizes)):
            hidden = hidden @ params[f"dense.{i}.weight"] + params[f"dense.{i}.bias"]
            hidden = F.relu(_normalised(params, i, hidden) if self.images else hidden)
        return hidden

    def _convolutions(self, params: Params, inputs: Tensor) -> Tensor:
        pool, hidden = self.config.problem == "miniimagenet", inputs.permute(0, 3, 1, 2)
        for i in range(4):
            kernel = params[f"conv.{i}.weight"].view(3, 3, hidden.shape[1], -1).permute(3, 2, 0, 1)
            hidden = F.conv2d(hidden, kernel, stride=1 if pool else 2, padding=1)
            hidden = F.relu(_normalised(params, i, hidden))
            hidden = F.max_pool2d(hidden, 2) if pool else hidden
        return hidden.permute(0, 2, 3, 1).flatten(1) if pool else hidden.mean((2, 3))

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """What the network says of a task's inputs ``[n, ...]``."""
        return self.features(params, inputs) @ params[f"{self.last}.weight"] + params[f"{self.last}.bias"]

    def inner_loss(self, params: Params, examples: Examples) -> Tensor:
        """The mean over examples; of images the code's sum over all examples divided by the shots."""
        outputs = self.outputs(params, examples.inputs)
        if not self.images:
            return (outputs - examples.targets).square().mean()
        shots = len(examples.targets) // self.config.ways
        return F.cross_entropy(outputs, examples.targets, reduction="sum") / shots

    def outer_loss(self, params: Params, examples: Examples) -> Tensor:
        """The mean over examples."""
        outputs = self.outputs(params, examples.inputs)
        if not self.images:
            return (outputs - examples.targets).square().mean()
        return F.cross_entropy(self.config.logit_scale * outputs, examples.targets)

    def accuracy(self, params: Params, examples: Examples) -> float:
        """Share of right labels."""
        right = self.outputs(params, examples.inputs).argmax(-1) == examples.targets
        return float(right.double().mean())

    def adapted(
        self, params: Params, support: Examples, steps: int, step_size: float, *, first_order: bool
    ) -> Params:
        """Parameters after some gradient steps on one task's support examples."""
        params = dict(params)
        for _ in range(steps):
            names = [name for name in params if self.adapts(name)]
            loss = self.inner_loss(params, support)
            values = [params[name] for name in names]
            # What is not detached is differentiated again.
            gradients = torch.autograd.grad(loss, values, create_graph=not first_order, retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                params[name] = params[name] - step_size * gradient
        return params


def plain(experiment: Experiment) -> Plain:
    """The plain model of an experiment."""
    hidden = experiment.config.hidden_sizes
    return Plain(experiment.config, f"dense.{len(hidden)}" if hidden else "dense")


def doubled(params: Params) -> Params:
    """Double precision, to be differentiated."""
    return {name: value.double().requires_grad_() for name, value in params.items()}


def task(episodes: Episodes, index: int) -> Episodes:
    """Support and query of one task, without the dimension of tasks; numbers in double precision."""

    def numbers(values: Tensor) -> Tensor:
        return values.double() if values.is_floating_point() else values

    return Episodes(*(Examples(*(numbers(part[index]) for part in examples)) for examples in episodes))


def plain_meta_gradient(
    model: Plain, params: Params, episodes: Episodes, steps: int, *, first_order: bool
) -> tuple[Params, float]:
    """The gradient of the mean query loss after adaptation, and that loss."""
    params, losses = doubled(params), []
    for index in range(episodes.tasks):
        support, query = task(episodes, index)
        adapted = model.adapted(params, support, steps, model.config.inner_lr, first_order=first_order)
        losses.append(model.outer_loss(adapted, query))
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, list(params.values()))
    return dict(zip(params, gradients, strict=True)), loss.item()


def plain_curves(
    model: Plain, params: Params, episodes: Episodes, steps: int, step_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Query loss and accuracy of each task after 0 .. ``steps`` gradient steps ``[steps + 1, tasks]``."""
    losses, accuracies = np.zeros((2, steps + 1, episodes.tasks))
    for index in range(episodes.tasks):
        support, query = task(episodes, index)
        adapted = doubled(params)
        for step in range(steps + 1):
            if step:
                adapted = model.adapted(adapted, support, 1, step_size, first_order=True)
                adapted = doubled({name: value.detach() for name, value in adapted.items()})
            losses[step, index] = model.outer_loss(adapted, query).item()
            if model.images:
                accuracies[step, index] = model.accuracy(adapted, query)
    return losses, accuracies


def _normalised(params: Params, layer: int, hidden: Tensor) -> Tensor:
    scale, offset = params.get(f"norm.{layer}.scale"), params[f"norm.{layer}.offset"]
    return F.batch_norm(hidden, None, None, scale, offset, training=True, eps=NORM_EPSILON)
