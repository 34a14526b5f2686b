"""Returns after 0 .. k gradient steps on held-out tasks: the measure of every table and figure of the paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maml_rl.batch import Samples, Trajectories, make_samples
from maml_rl.envs.base import TaskVectorEnv
from maml_rl.meta_learner import InnerLR, Params, adapt, stack_params
from maml_rl.meta_update import inner_loss, split_meta_params
from maml_rl.policy import GaussianMLP
from maml_rl.policy_file import PolicyFile
from maml_rl.rollout import Phase, rollout, stream

TASKS_PER_CHUNK = 8
"""Tasks adapted in one batch: bounds memory, and has no influence on the result of a task."""


@dataclass(frozen=True)
class AdaptationResult:
    """Mean return of each task after each number of gradient steps: ``returns [steps + 1, tasks]``."""

    returns: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over tasks ``[steps + 1]``."""
        return self.returns.mean(axis=1)

    @property
    def interval(self) -> np.ndarray:
        """Half width of the 95 % confidence interval of the mean over tasks: 1.96 s / sqrt(tasks).

        With a single task it is NaN: the spread is not known.
        """
        tasks = self.returns.shape[1]
        if tasks < 2:
            return np.full(len(self.returns), np.nan)
        return 1.96 * self.returns.std(axis=1, ddof=1) / np.sqrt(tasks)

    def as_dict(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "gradient_steps": list(range(len(self.returns))),
            "mean": self.mean.tolist(),
            "interval_95": [None if np.isnan(x) else float(x) for x in self.interval],
            "tasks": self.returns.shape[1],
            "returns": self.returns.tolist(),
        }

    def save(self, folder: Path) -> None:
        """Write ``adaptation.csv`` (a row per number of steps) and ``adaptation.json``."""
        with (folder / "adaptation.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["gradient_steps", "mean", "interval_95"])
            writer.writerows(zip(range(len(self.returns)), self.mean, self.interval, strict=True))
        (folder / "adaptation.json").write_text(json.dumps(self.as_dict(), indent=1) + "\n")


def evaluate(
    env: TaskVectorEnv,
    spec: GaussianMLP,
    meta_params: Params,
    tasks: Sequence[np.ndarray] | np.ndarray,
    *,
    steps: int,
    inner_lr: float,
    gamma: float,
    gae_lambda: float,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> AdaptationResult:
    """Adapt to each task for ``steps`` gradient steps, each on fresh episodes, and measure after every step.

    The step size is alpha for the first step and alpha / 2 for all later ones (Finn et al. 2017, app. A.2).
    Every task has random streams of its own: its row does not depend on which other tasks are evaluated.

    Args:
        env: made by ``make_task_env``; its number of copies is the number of episodes per measurement.
        meta_params: theta, and the learned step sizes if any.
        inner_lr: alpha, unless learned.
        on_progress: called with the number of tasks done.

    Raises:
        ValueError: no tasks, or a negative number of steps.
    """
    if len(tasks) == 0:
        raise ValueError("tasks is empty; evaluation needs at least one task")
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must be 0 or more")
    theta, first_lr = split_meta_params(meta_params, inner_lr)
    returns = np.zeros((steps + 1, len(tasks)))
    for start in range(0, len(tasks), TASKS_PER_CHUNK):
        chunk = tasks[start : start + TASKS_PER_CHUNK]
        params = stack_params(theta, len(chunk))
        for step in range(steps + 1):
            trajectories = [
                _rollout(env, task, spec, params, i, (seed, Phase.EVALUATION, start + i, step))
                for i, task in enumerate(chunk)
            ]
            returns[step, start : start + len(chunk)] = [t.mean_return for t in trajectories]
            if step < steps:
                samples = make_samples(trajectories, gamma=gamma, gae_lambda=gae_lambda)
                params = _gradient_step(spec, params, samples, first_lr, step)
        on_progress(start + len(chunk))
    return AdaptationResult(returns)


def adapted_params(
    env: TaskVectorEnv, policy: PolicyFile, task: np.ndarray, steps: int, seed: int
) -> list[Params]:
    """One task's parameters after 0, 1, .. ``steps`` gradient steps (not stacked), as ``evaluate`` takes them.

    The random streams are those of ``evaluate``'s first task.

    Raises:
        ValueError: a negative number of steps.
    """
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must be 0 or more")
    info = policy.info
    theta, first_lr = split_meta_params(policy.params, info["inner_lr"])
    stacked = [stack_params(theta, 1)]
    for step in range(steps):
        key = (seed, Phase.EVALUATION, 0, step)
        trajectories = [_rollout(env, task, policy.spec, stacked[step], 0, key)]
        samples = make_samples(trajectories, gamma=info["gamma"], gae_lambda=info["gae_lambda"])
        stacked.append(_gradient_step(policy.spec, stacked[step], samples, first_lr, step))
    return [{name: value[0].detach() for name, value in params.items()} for params in stacked]


def _gradient_step(
    spec: GaussianMLP, params: Params, samples: Samples, first_lr: InnerLR, step: int
) -> Params:
    """Parameters, stacked over tasks, after gradient step number ``step`` (0, 1, ...) of the protocol."""
    lr = first_lr if step == 0 else _halved(first_lr)
    return adapt(inner_loss(spec), params, [samples], lr, first_order=True)


def _rollout(
    env: TaskVectorEnv,
    task: np.ndarray,
    spec: GaussianMLP,
    params: Params,
    index: int,
    key: tuple[int, ...],
) -> Trajectories:
    task_params = {name: value[index].detach().numpy() for name, value in params.items()}
    return rollout(env, task, spec, task_params, stream(*key))


def _halved(inner_lr: InnerLR) -> InnerLR:
    if isinstance(inner_lr, Mapping):
        return {name: value / 2 for name, value in inner_lr.items()}
    return inner_lr / 2


def markdown_table(rows: Mapping[str, Sequence[tuple[float, float | None]]]) -> str:
    """Rows of ``mean +- interval`` after 0, 1, ... gradient steps, as a Markdown table."""
    steps = max(len(row) for row in rows.values())
    lines = [
        "| returns after gradient steps | " + " | ".join(str(k) for k in range(steps)) + " |",
        "|---|" + "---|" * steps,
    ]
    for name, row in rows.items():
        cells = [
            f"{mean:.2f}" + ("" if width is None or np.isnan(width) else f" ± {width:.2f}")
            for mean, width in row
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
