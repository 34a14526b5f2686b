"""Meta-learning for users: their own module, loss and task sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.checks import BOOL, COUNT, COUNT_OR_ZERO, POSITIVE, SEED, checked, one_of
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.stacked_module import StackedModule
from maml_rl.tools.storage import Place
from supervised.data.episodes import Examples, Purpose, Sampler, check_episodes, stream
from supervised.experiments.training import TrainingRun
from supervised.learning.losses import UserLoss, loss_of_each_task
from supervised.learning.meta_step import (
    INNER_LR,
    Learner,
    LearnInnerLR,
    Measurement,
    adaptation_curve,
    adapted_params,
    split,
)
from supervised.learning.problem import Problem, chunk_size, validation_after_adaptation
from supervised.learning.settings import TrainingSettings
from supervised.learning.trainer import MetaTrainer


class MetaLearner:
    """MAML for any ``torch.nn.Module``.

    Args:
        module: any module that is a function of its parameters and inputs: running statistics and dropout only in
            ``.eval()``. Its parameters are where training starts; those with ``requires_grad=False`` stay.
        loss: of one task, ``(outputs, targets) -> scalar``, differentiable twice unless ``first_order``.
        inner_lr: step size of the adaptation, or its initial value when it is learned.
        inner_steps: gradient steps in training.
        first_order: drop the second derivatives.
        learn_inner_lr: learn one step size (``"scalar"``), one per layer, or one per parameter.
        accuracy: of one task, ``(outputs, targets) -> scalar``, to be shown and to choose the best model by.
        adapt_only: prefixes of the parameters that adaptation changes; all by default.
        vectorize: compute the tasks one after the other (False) or insist on ``torch.func.vmap`` (True); by default
            whichever the module allows, with the same result.
        device: where to compute.

    Raises:
        ValueError: a setting, or the module, is not as it must be.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: UserLoss,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        first_order: bool = False,
        learn_inner_lr: LearnInnerLR = "no",
        accuracy: Callable[[Tensor, Tensor], Tensor] | None = None,
        adapt_only: tuple[str, ...] = (),
        vectorize: bool | None = None,
        device: str = "cpu",
    ) -> None:
        inner_lr = checked("inner_lr", inner_lr, POSITIVE)
        inner_steps = checked("inner_steps", inner_steps, COUNT_OR_ZERO)
        checked("first_order", first_order, BOOL)
        checked("learn_inner_lr", learn_inner_lr, one_of(get_args(LearnInnerLR)))
        self.network = StackedModule(module.to(device), adapt_only, vectorize)
        self.device = torch.device(device)
        each = loss_of_each_task(loss)
        self.learner = Learner(
            self.network,
            each,
            each,
            inner_lr,
            inner_steps,
            first_order,
            learn_inner_lr,
            accuracy=None if accuracy is None else loss_of_each_task(accuracy),
        )
        self.meta_params: Params = self.network.init_params(stream(0, Purpose.INITIALISATION))

    def fit(
        self,
        sampler: Sampler,
        *,
        validation: Sampler | None = None,
        output: Place | None = None,
        resume: bool = False,
        **settings: Any,
    ) -> dict[str, float]:
        """Meta-train; afterwards ``meta_params`` are the best by validation. Returns the last progress row.

        Args:
            sampler: ``(rng, tasks) -> Episodes``.
            validation: of other tasks; default: ``sampler``, with random numbers of its own.
            output: run directory for progress, TensorBoard and checkpoints.
            resume: continue from ``output``'s latest checkpoint.
            settings: see ``TrainingSettings``.

        Raises:
            ValueError: a setting, an episode or a loss is not as it must be.
            NonFiniteLossError: naming the iteration.
        """
        training = TrainingSettings(**{"test_steps": self.learner.inner_steps, **settings})
        validate = validation_after_adaptation(
            self.learner, validation or sampler, training, training.test_steps
        )
        problem = Problem(self.learner, sampler, validate)
        if output is None:
            run = None
        elif resume:
            run = RunDirectory.open(output)
        else:
            run = RunDirectory.create(output, {"config": vars(training)})
        trainer = MetaTrainer(problem.learner, problem.train, training, self.device)
        training_run = TrainingRun(trainer, problem.validate, training, run, resume)
        row = training_run()
        self.meta_params = training_run.best_params or trainer.params
        return row

    def evaluate(self, sampler: Sampler, *, episodes: int, steps: int, seed: int = 0) -> Measurement:
        """Query loss and accuracy of test tasks after 0 .. ``steps`` gradient steps ``[steps + 1, tasks]``."""
        checked("episodes", episodes, COUNT)
        checked("steps", steps, COUNT_OR_ZERO)
        drawn = sampler(stream(checked("seed", seed, SEED), Purpose.TEST), episodes)
        check_episodes(drawn, episodes)
        chunk = chunk_size(TrainingSettings())
        return adaptation_curve(self.learner, self.meta_params, drawn.to(self.device), steps, chunk)

    def adapt(self, inputs: Tensor, targets: Tensor, steps: int = 1) -> nn.Module:
        """A copy of the module, adapted to the examples ``[n, ...]`` of one task."""
        checked("steps", steps, COUNT_OR_ZERO)
        support = Examples(inputs[None], targets[None]).to(self.device)
        parts = split(self.learner, self.meta_params, 1)
        adapted = adapted_params(self.learner, parts, support, steps, first_order=True)
        return self.network.module_with({name: value[0].detach() for name, value in adapted.items()})

    @property
    def step_sizes(self) -> Params:
        """The learned step sizes."""
        return {
            name.removeprefix(INNER_LR): self.learner.inner_lr * value
            for name, value in self.meta_params.items()
            if name.startswith(INNER_LR)
        }
