"""The one configuration of an experiment, and its checks.

Sources: *paper* = Finn, Abbeel & Levine 2017, arXiv 1703.03400; *code* = the authors' published code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from maml_rl.tools.checks import (
    BOOL,
    COUNT,
    NON_NEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    Rule,
    integer_of_at_least,
    one_of,
)
from supervised.learning.meta_step import LearnInnerLR
from supervised.learning.settings import ConfigError, TrainingSettings

Problem = Literal["sinusoid", "omniglot", "miniimagenet", "images"]
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
META_LEARNED = ("maml", "first-order", "anil", "context-vector")
MULTI_TASK = ("multi-task", "multi-task-l2", "multi-task-l2-mean")
METHODS: dict[str, tuple[str, ...]] = {
    "sinusoid": (*META_LEARNED, "pretrained", "oracle", *MULTI_TASK),
    "omniglot": (*META_LEARNED, "classifier"),
    "miniimagenet": (*META_LEARNED, "classifier"),
    "images": (*META_LEARNED, "classifier"),
}


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
        image_size: pixels of each side to which the images of a user's folder are brought.
        validation_fraction: of the classes of a user's folder, if it is not split into folders train, val, test.
        test_fraction: likewise.
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
    image_size: int = 84
    validation_fraction: float = 0.2
    test_fraction: float = 0.2
    test_episodes: int = 600  # code

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.problem == "sinusoid" and not self.hidden_sizes:
            raise ConfigError("hidden_sizes is (); the regressor of sinusoids is a dense network")
        self._check_unused()

    def rules(self) -> dict[str, Rule]:
        sizes: Rule = (
            "a sequence of positive integers",
            lambda v: isinstance(v, tuple) and all(COUNT[1](size) for size in v),
        )
        return {
            "problem": one_of(get_args(Problem)),
            "method": one_of(METHODS[self.problem] if self.problem in get_args(Problem) else ()),
            **super().rules(),
            "ways": integer_of_at_least(1 if self.problem == "sinusoid" else 2),
            **dict.fromkeys(
                ("shots", "query", "filters", "context_size", "test_episodes", "inner_steps"), COUNT
            ),
            "inner_lr": POSITIVE,
            "learn_inner_lr": one_of(get_args(LearnInnerLR)),
            "logit_scale": POSITIVE,
            "hidden_sizes": sizes,
            "adapt_norm": BOOL,
            "regularisation": NON_NEGATIVE,
            "image_size": integer_of_at_least(16),  # four blocks halve it
            **dict.fromkeys(("validation_fraction", "test_fraction"), OPEN_UNIT),
        }

    def _check_unused(self) -> None:
        """Refuse fields that the problem or method would not read."""
        allowed = {
            "ways": self.problem != "sinusoid",
            "filters": self.problem != "sinusoid" and not self.hidden_sizes,
            "adapt_norm": self.problem != "sinusoid" and self.method in ("maml", "first-order"),
            "context_size": self.method == "context-vector",
            "regularisation": self.method in MULTI_TASK[1:],
            **dict.fromkeys(("image_size", "validation_fraction", "test_fraction"), self.problem == "images"),
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
        """From what ``config.json`` holds; raises ConfigError for unknown and missing fields."""
        known = {field.name for field in dataclasses.fields(cls)}
        for what, names in (("unknown", set(values) - known), ("missing", known - set(values))):
            if names:
                raise ConfigError(f"{what} fields: {', '.join(sorted(names))}")
        return cls(**{**values, "hidden_sizes": tuple(values["hidden_sizes"])})


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ExperimentConfig)}
