"""One meta-update and its measurement; the inner loop is ``maml_rl.learning.meta_learner``.

Meta-parameters are the network's parameters and, when they are learned, the step sizes: a dictionary of
tensors. Every function is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from maml_rl.learning.meta_learner import InnerLR, Params, adapt, stack_params
from supervised.data.episodes import Episodes, Examples
from supervised.learning.losses import TaskLoss
from supervised.models.networks import HeadOnly, Network

LearnInnerLR = Literal["no", "scalar", "layer", "parameter"]
INNER_LR = "inner_lr."
"""Prefix of learned step sizes, in multiples of alpha, among the meta-parameters."""


@dataclass(frozen=True)
class Learner:
    """What is meta-learned and how.

    Attributes:
        network: maps stacked parameters and inputs to outputs.
        inner_loss: its gradient is the adaptation's.
        outer_loss: of the adapted parameters on the query examples: the meta-objective.
        inner_lr: alpha, the step size, or its initial value when it is learned.
        inner_steps: gradient steps in training; 0 trains the network on all tasks without adaptation.
        first_order: drop the second derivatives (paper, sec. 5.2).
        learn_inner_lr: meta-learn one step size in all, per layer (parameters whose names differ in the last
            part only), or per parameter, i.e. for every number (paper, sec. 2.2).
        accuracy: measured beside the loss where it means something.
        prepare: applied to inputs on the device, e.g. bytes to floats.
    """

    network: Network
    inner_loss: TaskLoss
    outer_loss: TaskLoss
    inner_lr: float
    inner_steps: int = 1
    first_order: bool = False
    learn_inner_lr: LearnInnerLR = "no"
    accuracy: TaskLoss | None = None
    prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs

    def features(self, shared: Params, inputs: Tensor) -> Tensor:
        """Inputs as the inner loop sees them: prepared, and through the layers that it leaves alone."""
        prepared = self.prepare(inputs)
        return self.network.embed(shared, prepared) if isinstance(self.network, HeadOnly) else prepared

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """The network's outputs for stacked parameters."""
        return self.network(params, self.features(params, inputs))


class Measurement(NamedTuple):
    """Outer loss and accuracy of each task ``[..., tasks]``; ``accuracies`` is None in regression."""

    losses: Tensor
    accuracies: Tensor | None


def step_size_multiples(
    learner: Learner, params: Params, adapted: Callable[[str], bool] = lambda name: True
) -> Params:
    """Initial step sizes as multiples of ``inner_lr``, to be learned beside ``params``; empty if none are.

    Multiples start at 1, where the steps of Adam that suit weights suit them, too: an Adam step of 0.001 on a
    step size of 0.001 itself would double it. Those of a layer or parameter that is not ``adapted`` start at 0.
    """
    if learner.learn_inner_lr == "no":
        return {}
    multiples: Params = {}
    for name, value in params.items():
        if not learner.network.adapted(name):
            continue
        shape = value.shape if learner.learn_inner_lr == "parameter" else ()
        started = learner.learn_inner_lr == "scalar" or adapted(name)
        multiples[_step_size_name(learner, name)] = torch.full(shape, float(started))
    return multiples


def _step_size_name(learner: Learner, name: str) -> str:
    kind = learner.learn_inner_lr
    return INNER_LR + {"scalar": "all", "layer": name.rpartition(".")[0], "parameter": name}[kind]


class Parts(NamedTuple):
    """Meta-parameters by role: ``adapted`` and ``shared`` are stacked over tasks."""

    adapted: Params
    shared: Params
    inner_lr: InnerLR


def split(learner: Learner, meta_params: Mapping[str, Tensor], tasks: int) -> Parts:
    """What the inner loop changes, what it leaves alone, and its step sizes."""
    network = {name: value for name, value in meta_params.items() if not name.startswith(INNER_LR)}
    stacked = stack_params(network, tasks)
    adapted = {name: value for name, value in stacked.items() if learner.network.adapted(name)}
    shared = {name: value for name, value in stacked.items() if name not in adapted}
    if learner.learn_inner_lr == "no":
        return Parts(adapted, shared, learner.inner_lr)
    multiples = {name: meta_params[_step_size_name(learner, name)] for name in adapted}
    return Parts(adapted, shared, {name: learner.inner_lr * value for name, value in multiples.items()})


def adapted_params(
    learner: Learner, parts: Parts, support: Examples, steps: int, *, first_order: bool
) -> Params:
    """All parameters of each task after ``steps`` gradient steps on its support examples."""

    def loss(params: Params, examples: Examples) -> Tensor:
        outputs = learner.network({**parts.shared, **params}, examples.inputs)
        return learner.inner_loss(outputs, examples.targets)

    seen = support._replace(inputs=learner.features(parts.shared, support.inputs))
    adapted = adapt(loss, parts.adapted, [seen] * steps, parts.inner_lr, first_order=first_order)
    return {**parts.shared, **adapted}


def measure(learner: Learner, params: Params, examples: Examples) -> Measurement:
    """Outer loss and accuracy of stacked parameters."""
    outputs = learner.outputs(params, examples.inputs)
    losses = learner.outer_loss(outputs, examples.targets)
    if learner.accuracy is None:
        return Measurement(losses, None)
    return Measurement(losses, learner.accuracy(outputs.detach(), examples.targets))


def meta_gradient(
    learner: Learner, meta_params: Params, episodes: Episodes, tasks_per_chunk: int
) -> tuple[Params, Measurement]:
    """The gradient of the mean query loss after adaptation (paper, Algorithm 2, line 10).

    Args:
        tasks_per_chunk: tasks computed at once: bounds the memory; changes the result by rounding only.
    """
    total: Params = {}
    measured = []
    for chunk in episodes.chunks(tasks_per_chunk):
        parts = split(learner, meta_params, chunk.tasks)
        params = adapted_params(
            learner, parts, chunk.support, learner.inner_steps, first_order=learner.first_order
        )
        result = measure(learner, params, chunk.query)
        gradients = _gradients(result.losses, meta_params, 1 / episodes.tasks)
        for name, gradient in zip(meta_params, gradients, strict=True):
            if gradient is None:  # without inner steps the step sizes play no part
                gradient = torch.zeros_like(meta_params[name])
            total[name] = total[name] + gradient if name in total else gradient
        measured.append(Measurement(result.losses.detach(), result.accuracies))
    return total, join(measured)


def _gradients(losses: Tensor, meta_params: Params, weight: float) -> tuple[Tensor | None, ...]:
    weights = torch.full_like(losses, weight)
    try:
        return torch.autograd.grad(losses, list(meta_params.values()), weights, allow_unused=True)
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        raise ValueError(
            f"the module or the loss has no second derivative ({error}), which MAML needs: use the first-order "
            "method (first_order=True) or, for attention, call it within "
            "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
        ) from error


def adaptation_curve(
    learner: Learner,
    meta_params: Params,
    episodes: Episodes,
    steps: int,
    tasks_per_chunk: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Measurement:
    """Query loss and accuracy of each task after 0 .. ``steps`` gradient steps: ``[steps + 1, tasks]``.

    Args:
        on_progress: called with the number of tasks done.
    """
    meta_params = {name: value.detach() for name, value in meta_params.items()}
    chunks, done = [], 0
    for chunk in episodes.chunks(tasks_per_chunk):
        parts = split(learner, meta_params, chunk.tasks)
        curve = []
        for step in range(steps + 1):
            if step:
                params = adapted_params(learner, parts, chunk.support, 1, first_order=True)
                parts = parts._replace(adapted={name: params[name].detach() for name in parts.adapted})
            with torch.no_grad():
                curve.append(measure(learner, {**parts.shared, **parts.adapted}, chunk.query))
        chunks.append(
            Measurement(
                torch.stack([point.losses for point in curve]),
                None if learner.accuracy is None else torch.stack([_known(p.accuracies) for p in curve]),
            )
        )
        done += chunk.tasks
        on_progress(done)
    return join(chunks)


def join(parts: list[Measurement]) -> Measurement:
    """One measurement of the tasks of all ``parts``."""
    if len(parts) == 1:
        return parts[0]
    losses = torch.cat([part.losses for part in parts], -1)
    if parts[0].accuracies is None:
        return Measurement(losses, None)
    return Measurement(losses, torch.cat([_known(part.accuracies) for part in parts], -1))


def _known(accuracies: Tensor | None) -> Tensor:
    assert accuracies is not None
    return accuracies
