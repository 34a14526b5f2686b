"""From a configuration to networks, tasks and a trainer: the one place that knows which method needs what."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervised.data.episodes import Sampler
from supervised.data.image_data import (
    ImageClasses,
    ImageSplits,
    load_folder,
    load_miniimagenet,
    load_omniglot,
)
from supervised.data.image_tasks import ClassificationSampler, FewShotSampler
from supervised.data.sinusoid import SinusoidSampler
from supervised.experiments.config import MULTI_TASK, ExperimentConfig
from supervised.experiments.sizes import check_sizes
from supervised.learning.classifier import validation_by_nearest_neighbour
from supervised.learning.losses import (
    accuracy,
    cross_entropy,
    cross_entropy_summed_over_classes,
    mean_squared_error,
)
from supervised.learning.meta_step import Learner
from supervised.learning.multi_task import PENALTIES, RegressorAveraging
from supervised.learning.problem import Problem, validation_after_adaptation
from supervised.learning.settings import ConfigError
from supervised.learning.trainer import MetaTrainer, StartingPoint, Trainer
from supervised.models.networks import MLP, ConvNet, HeadOnly, Network, WithContext

TEST_QUERY_POINTS = 100
"""Query points per test sinusoid: more than in training, for a smaller error of the measurement."""
NOT_ADAPTED = ("pretrained", "oracle", "classifier")
"""Methods that train on all tasks without an inner loop."""


def bytes_to_floats(images: Tensor) -> Tensor:
    """Bytes to [0, 1]; on the device, so that bytes travel."""
    return images.to(torch.get_default_dtype()) / 255


@dataclass(frozen=True)
class Experiment:
    """A configuration and the data it needs.

    Attributes:
        data: folder or zip file of the images; not used by sinusoids.
    """

    config: ExperimentConfig
    data: Path | None = None

    @cached_property
    def images(self) -> ImageSplits:
        """The image data set; read at the first use."""
        if self.data is None:
            raise ConfigError(
                f"data is missing: {self.config.problem} needs --data or the environment variable "
                f"SUPERVISED_{self.config.problem.upper()}, a folder or zip file of the images"
            )
        config = self.config
        if config.problem == "images":
            return load_folder(self.data, config.image_size, config.validation_fraction, config.test_fraction)
        return load_omniglot(self.data) if config.problem == "omniglot" else load_miniimagenet(self.data)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Size (of both sides) and channels."""
        size = self.config.image_size
        return {"omniglot": (28, 1), "miniimagenet": (84, 3), "images": (size, 3)}[self.config.problem]

    @property
    def inputs(self) -> int:
        """Numbers in one input."""
        return 1 if self.config.problem == "sinusoid" else self.image_shape[0] ** 2 * self.image_shape[1]

    # --- networks

    @cached_property
    def learner(self) -> Learner:
        """What is trained; the multi-task baseline's is what its average is tested with."""
        if self.config.method == "classifier":
            few_shot = self.few_shot_learner
            network = self._image_network(self.classification_sampler.labels)
            return dataclasses.replace(few_shot, network=network, inner_steps=0)
        return self.few_shot_learner

    @cached_property
    def few_shot_learner(self) -> Learner:
        """What adapts to a task of the problem."""
        config = self.config
        common: dict[str, Any] = {
            "inner_lr": config.inner_lr,
            "inner_steps": 0 if config.method in NOT_ADAPTED else config.inner_steps,
            "first_order": config.method == "first-order",
            "learn_inner_lr": config.learn_inner_lr,
        }
        if config.problem == "sinusoid":
            return Learner(self._regressor(), mean_squared_error, mean_squared_error, **common)
        return Learner(
            self._image_network(config.ways),
            cross_entropy_summed_over_classes,
            lambda logits, labels: cross_entropy(config.logit_scale * logits, labels),
            accuracy=accuracy,
            prepare=bytes_to_floats,
            **common,
        )

    def _regressor(self) -> Network:
        config = self.config
        context = config.context_size if config.method == "context-vector" else 0
        inputs = 3 if config.method == "oracle" else 1 + context
        return self._to_adapt(MLP((inputs, *config.hidden_sizes, 1)), ())

    def _image_network(self, outputs: int) -> Network:
        config = self.config
        size, channels = self.image_shape
        context = config.context_size if config.method == "context-vector" else 0
        network: MLP | ConvNet
        if config.hidden_sizes:
            inputs = size**2 * (channels + context)
            network = MLP((inputs, *config.hidden_sizes, outputs), norm=True, adapt_norm=config.adapt_norm)
        else:
            network = ConvNet(
                channels + context,
                size,
                config.filters,
                outputs,
                pool=config.problem != "omniglot",
                adapt_norm=config.adapt_norm,
            )
        return self._to_adapt(network, (size, size))

    def _to_adapt(self, network: MLP | ConvNet, size: tuple[int, ...]) -> Network:
        """The network as the method adapts it; ``size`` is that of inputs without their channels."""
        if self.config.method == "context-vector":
            return WithContext(network, (*size, self.config.context_size))
        return HeadOnly(network) if self.config.method == "anil" else network

    # --- tasks

    def sampler(self, classes: ImageClasses | None = None, shots: int | None = None) -> Sampler:
        """Draws tasks to adapt to: of the given classes, or sinusoids; ``shots`` if not the configuration's."""
        config = self.config
        shots = shots or config.shots
        if classes is None:
            return SinusoidSampler(shots, TEST_QUERY_POINTS, tell_task=config.method == "oracle")
        return FewShotSampler(classes, config.ways, shots, config.query, rotate=config.problem == "omniglot")

    @property
    def test_sampler(self) -> Sampler:
        """Draws test tasks."""
        return self.sampler(None if self.config.problem == "sinusoid" else self.images.test)

    @property
    def validation_sampler(self) -> Sampler:
        """Draws validation tasks."""
        return self.sampler(None if self.config.problem == "sinusoid" else self.images.validation)

    @cached_property
    def classification_sampler(self) -> ClassificationSampler:
        """Draws batches of all training classes."""
        config = self.config
        batch = config.ways * config.query
        return ClassificationSampler(self.images.train, batch, rotate=config.problem == "omniglot")

    @property
    def training_sampler(self) -> Sampler:
        """Draws what the learner is trained on."""
        config = self.config
        if config.method == "classifier":
            return self.classification_sampler
        if config.problem == "sinusoid":
            return SinusoidSampler(config.shots, config.query, tell_task=config.method == "oracle")
        return self.sampler(self.images.train)

    # --- training

    @cached_property
    def problem(self) -> Problem:
        """Learner, training tasks and validation."""
        config = self.config
        if config.method == "classifier":
            validate = validation_by_nearest_neighbour(self.learner, self.validation_sampler, config)
        else:
            steps = 0 if config.method in (*NOT_ADAPTED, *MULTI_TASK) else config.test_steps
            validate = validation_after_adaptation(self.learner, self.validation_sampler, config, steps)
        return Problem(self.learner, self.training_sampler, validate)

    def trainer(self, device: torch.device, start_from: StartingPoint | None = None) -> Trainer:
        """A trainer at iteration 0, with fresh meta-parameters or those to start from.

        Raises:
            ConfigError: the method does not train one set of meta-parameters, or not on this device.
            ValueError: ``start_from`` is not of this network, or training needs more memory than there is.
        """
        config = self.config
        check_sizes(config, self.inputs)
        if config.method in MULTI_TASK:
            if start_from is not None:
                raise ConfigError(
                    f"start_from is given, but {config.method} trains many regressors, each from fresh weights"
                )
            if device.type != "cpu":
                raise ConfigError(
                    f"device is '{device}', but {config.method} trains on the CPU; leave it out"
                )
            return RegressorAveraging(
                self.learner.network,
                mean_squared_error,
                config,
                PENALTIES[config.method],
                config.regularisation,
            )
        return MetaTrainer(self.problem.learner, self.problem.train, config, device, start_from)


def describe(experiment: Experiment, preset: str) -> dict[str, Any]:
    """``config.json``'s content."""
    return {
        "preset": preset,
        "config": dataclasses.asdict(experiment.config),
        "data": None if experiment.data is None else str(experiment.data.absolute()),
        "started": time.strftime("%FT%T%z"),
    }
