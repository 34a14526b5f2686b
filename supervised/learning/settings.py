"""How a learner is meta-trained, and how settings are checked.

Sources: *paper* = Finn, Abbeel & Levine 2017, arXiv 1703.03400; *code* = the authors' published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from maml_rl.tools.checks import (
    BOOL,
    COUNT,
    COUNT_OR_ZERO,
    NON_NEGATIVE,
    POSITIVE,
    SEED,
    Rule,
    checked,
    one_of,
)

Precision = Literal["float32", "bfloat16"]


class ConfigError(ValueError):
    """A field has a value that is not allowed."""


@dataclass(frozen=True)
class TrainingSettings:
    """How any learner is meta-trained: what ``supervised.experiments.training`` reads.

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
        for name, rule in self.rules().items():
            # Frozen for others: here numbers of numpy become Python's.
            object.__setattr__(self, name, checked(name, getattr(self, name), rule, ConfigError))
        if self.validate_every % self.report_every:
            raise ConfigError(
                f"validate_every is {self.validate_every}; it must be a multiple of report_every, "
                f"{self.report_every}"
            )

    def rules(self) -> dict[str, Rule]:
        """What each field may be."""
        return {
            **dict.fromkeys(
                ("iterations", "meta_batch_size", "report_every", "validate_every", "validation_episodes"),
                COUNT,
            ),
            **dict.fromkeys(("test_steps", "tasks_per_chunk"), COUNT_OR_ZERO),
            "meta_lr": POSITIVE,
            "meta_lr_decay": BOOL,
            "gradient_clip": NON_NEGATIVE,
            "precision": one_of(get_args(Precision)),
            "capture_graph": BOOL,
            "seed": SEED,
        }
