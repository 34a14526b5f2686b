"""The one configuration of an experiment, its checks, and the paper's experiments as presets.

Sources: *paper* = Finn, Abbeel & Levine 2017, arXiv 1703.03400; *code* = the authors' published code.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from supervised.meta_step import LearnInnerLR

Problem = Literal["sinusoid", "omniglot", "miniimagenet"]
Method = Literal[
    "maml",
    "first-order",
    "anil",
    "context-vector",
    "pretrained",
    "oracle",
    "multi-task",
    "multi-task-l2",
    "multi-task-l2-mean",
    "classifier",
]
Precision = Literal["float32", "bfloat16"]
META_LEARNED = ("maml", "first-order", "anil", "context-vector")
MULTI_TASK = ("multi-task", "multi-task-l2", "multi-task-l2-mean")
METHODS: dict[str, tuple[str, ...]] = {
    "sinusoid": (*META_LEARNED, "pretrained", "oracle", *MULTI_TASK),
    "omniglot": (*META_LEARNED, "classifier"),
    "miniimagenet": (*META_LEARNED, "classifier"),
}


class ConfigError(ValueError):
    """A field has a value that is not allowed."""


@dataclass(frozen=True)
class TrainingSettings:
    """How any learner is meta-trained: what ``supervised.training`` reads.

    Attributes:
        iterations: meta-updates in total.
        meta_batch_size: tasks per meta-update.
        meta_lr: step size of Adam.
        meta_lr_decay: lower it to zero over the run, along half a cosine.
        gradient_clip: largest absolute value of each number of the meta-gradient; 0 does not clip.
        report_every: iterations between rows of progress.csv.
        validate_every: iterations between validations; a multiple of report_every.
        validation_episodes: held-out tasks of each validation, always the same; and of a tuned step size.
        test_steps: gradient steps at validation and test.
        tasks_per_chunk: tasks computed at once; 0 for all. Bounds memory, has no influence but rounding.
        precision: of matrix products and convolutions in training (``torch.autocast``); parameters, Adam,
            losses and every measurement on held-out tasks stay in float32.
        capture_graph: record the meta-gradient as a CUDA graph and replay it: for small models on a GPU.
        seed: the run is a function of its configuration and this number.
    """

    iterations: int = 60_000  # paper, app. A.1
    meta_batch_size: int = 32
    meta_lr: float = 1e-3  # code
    meta_lr_decay: bool = False
    gradient_clip: float = 0.0
    report_every: int = 100
    validate_every: int = 500
    validation_episodes: int = 200
    test_steps: int = 1
    tasks_per_chunk: int = 0
    precision: Precision = "float32"
    capture_graph: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "iterations",
            "meta_batch_size",
            "report_every",
            "validate_every",
            "validation_episodes",
        ):
            _at_least(self, name, 1)
        for name in ("test_steps", "tasks_per_chunk", "seed", "gradient_clip"):
            _at_least(self, name, 0)
        _positive(self, "meta_lr")
        _one_of(self, "precision", get_args(Precision))
        if self.validate_every % self.report_every:
            raise ConfigError(
                f"validate_every is {self.validate_every}; it must be a multiple of report_every, "
                f"{self.report_every}"
            )


@dataclass(frozen=True)
class ExperimentConfig(TrainingSettings):
    """One experiment.

    Attributes:
        problem: where tasks come from.
        method: meta-learner or baseline.
        ways: classes per task, N.
        shots: support examples per class (of the task, in regression), K, in training and image tests.
        query: query examples per class in training; in tests of image tasks, too.
        inner_lr: alpha. For images it multiplies the gradient of the cross-entropy summed over the N classes
            (mean over each class's examples), as in the code: N times the mean cross-entropy's.
        inner_steps: gradient steps in training.
        learn_inner_lr: meta-learn the step size: one, per layer, or per parameter.
        logit_scale: multiplies the query logits in the outer loss of images. A few inner steps may tell classes
            apart long before they make logits large; then the gradient is mostly about confidence, which
            accuracy does not ask for, unless this is above 1.
        hidden_sizes: of a dense network; empty for the problem's convolutional one.
        filters: of each convolution.
        adapt_norm: batch normalisation with a scale, adapted like its offset; else an offset, not adapted.
        context_size: numbers (regression) or image channels in the context vector.
        regularisation: weight of the multi-task regularisers.
        test_episodes: held-out tasks in the final evaluation.
    """

    problem: Problem = "sinusoid"
    method: Method = "maml"
    ways: int = 1
    shots: int = 10
    query: int = 10
    inner_lr: float = 0.01
    inner_steps: int = 1
    learn_inner_lr: LearnInnerLR = "no"
    logit_scale: float = 1.0
    hidden_sizes: tuple[int, ...] = (40, 40)
    filters: int = 64
    adapt_norm: bool = False
    context_size: int = 1
    regularisation: float = 0.0
    test_episodes: int = 600  # code

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "problem", get_args(Problem))
        _one_of(self, "method", METHODS[self.problem])
        _one_of(self, "learn_inner_lr", get_args(LearnInnerLR))
        for name in ("shots", "query", "filters", "context_size", "test_episodes"):
            _at_least(self, name, 1)
        _at_least(self, "ways", 1 if self.problem == "sinusoid" else 2)
        _at_least(self, "inner_steps", 1)
        _at_least(self, "regularisation", 0)
        _positive(self, "inner_lr")
        _positive(self, "logit_scale")
        if any(size < 1 for size in self.hidden_sizes) or (
            self.problem == "sinusoid" and not self.hidden_sizes
        ):
            raise ConfigError(f"hidden_sizes is {self.hidden_sizes}; every size must be 1 or more")
        self._check_unused()

    def _check_unused(self) -> None:
        """Refuse fields that the problem or method would not read."""
        allowed = {
            "ways": self.problem != "sinusoid",
            "filters": self.problem != "sinusoid" and not self.hidden_sizes,
            "adapt_norm": self.problem != "sinusoid" and self.method in ("maml", "first-order"),
            "context_size": self.method == "context-vector",
            "regularisation": self.method in MULTI_TASK[1:],
            "learn_inner_lr": self.method in META_LEARNED,
            "logit_scale": self.problem != "sinusoid" and self.method in META_LEARNED,
            "precision": self.method not in MULTI_TASK,
            "capture_graph": self.method not in MULTI_TASK,
        }
        for name, is_read in allowed.items():
            value, default = getattr(self, name), _DEFAULTS[name]
            if not is_read and value != default:
                raise ConfigError(
                    f"{name} is {value!r}, but {self.problem} with method {self.method} does not use it; "
                    f"leave it at {default!r}"
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExperimentConfig:
        """From what ``config.json`` holds; raises ConfigError for unknown fields."""
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ConfigError(f"unknown fields: {', '.join(sorted(unknown))}")
        return cls(**{**values, "hidden_sizes": tuple(values.get("hidden_sizes", ()))})


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ExperimentConfig)}


def _at_least(config: TrainingSettings, name: str, least: float) -> None:
    value = getattr(config, name)
    if not value >= least or not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; it must be {least} or more")


def _positive(config: TrainingSettings, name: str) -> None:
    value = getattr(config, name)
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}; it must be positive")


def _one_of(config: TrainingSettings, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of: {', '.join(allowed)}")
