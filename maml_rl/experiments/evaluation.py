"""Returns after 0 .. k gradient steps on held-out tasks: the measure of every table and figure of the paper."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.episode_info import SUCCESS_RATE, Measures
from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.learning.adaptation import inner_loss
from maml_rl.learning.batch import make_samples
from maml_rl.learning.meta_learner import InnerLR, Params, adapt, stack_params
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.meta_params import split_meta_params
from maml_rl.policies.normalizer import Normalizer
from maml_rl.policies.policy import Policy
from maml_rl.tools.checks import COUNT_OR_ZERO, POSITIVE, checked
from maml_rl.tools.files import strict_json, write_atomically
from maml_rl.tools.intervals import interval_95
from maml_rl.tools.threads import one_thread
from maml_rl.tools.time_limit import SAMPLE_TIMEOUT_S, time_limit

Tasks: TypeAlias = Sequence[Any] | np.ndarray
TASKS_PER_CHUNK = 5
"""Tasks adapted in one batch: bounds memory, and has no influence on the result of a task."""


@dataclass(frozen=True)
class AdaptationResult:
    """What each task gave after each number of gradient steps, ``[steps + 1, tasks]`` each.

    Of trials: in each of their episodes, ``[episodes, tasks]``.

    Attributes:
        returns: means over episodes; NaN where parameters or episodes were not finite numbers.
        of_trials: the rows are episodes.
        infos: likewise of the numbers that the environment tells in ``info``, among them ``success_rate``; NaN
            where a task did not tell it.
        groups: what each task belongs to, or nothing.
    """

    returns: np.ndarray
    infos: Mapping[str, np.ndarray] = field(default_factory=dict)
    of_trials: bool = False
    groups: tuple[str, ...] = ()

    @property
    def by_group(self) -> dict[str, AdaptationResult]:
        """The tasks of each group by themselves."""
        found = {}
        for name in dict.fromkeys(self.groups):
            index = [i for i, group in enumerate(self.groups) if group == name]
            infos = {info: values[:, index] for info, values in self.infos.items()}
            found[name] = AdaptationResult(self.returns[:, index], infos, self.of_trials)
        return found

    @property
    def rows(self) -> tuple[str, list[int]]:
        """What the rows are counted in, and their numbers: gradient steps from 0, or episodes from 1."""
        count = len(self.returns)
        return (
            ("episode", list(range(1, count + 1))) if self.of_trials else ("gradient_steps", [*range(count)])
        )

    @property
    def diverged(self) -> dict[int, int]:
        """The tasks whose adaptation left the finite numbers, and after which gradient step."""
        failed = np.isnan(self.returns)
        return {int(task): int(failed[:, task].argmax()) for task in np.flatnonzero(failed.any(0))}

    @property
    def mean(self) -> np.ndarray:
        """Mean over tasks ``[steps + 1]``."""
        return self.returns.mean(axis=1)

    @property
    def interval(self) -> np.ndarray:
        """Half width of the 95 % confidence interval of the mean over tasks; NaN for a single task."""
        return interval_95(self.returns)

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        counted, numbers = self.rows
        return {
            counted: numbers,
            "mean": self.mean.tolist(),
            "interval_95": [None if np.isnan(x) else float(x) for x in self.interval],
            "tasks": self.returns.shape[1],
            "info": {
                name: {"mean": np.mean(values, axis=1).tolist(), "interval_95": interval_95(values).tolist()}
                for name, values in self.infos.items()
            },
            "diverged": {str(task): step for task, step in self.diverged.items()},
            "returns": self.returns.tolist(),
            **self._by_group(),
        }

    def _by_group(self) -> dict[str, Any]:
        if not self.groups or SUCCESS_RATE not in self.infos:
            return {}
        return {"groups": list(self.groups), "success": self.infos[SUCCESS_RATE].tolist()}

    def save(self, folder: Path, description: Mapping[str, Any]) -> None:
        """Write ``adaptation.csv`` (a row per number of steps) and ``adaptation.json``, with ``description``."""
        with (folder / "adaptation.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            counted, numbers = self.rows
            writer.writerow([counted, "mean", "interval_95", *self.infos])
            told = [values.mean(axis=1) for values in self.infos.values()]
            writer.writerows(zip(numbers, self.mean, self.interval, *told, strict=True))
        content = strict_json({**description, **self.as_dict()}) + "\n"
        write_atomically(folder / "adaptation.json", content.encode())

    @classmethod
    def joined(cls, parts: Sequence[AdaptationResult]) -> AdaptationResult:
        """One result of the tasks of all parts."""
        names = dict.fromkeys(name for part in parts for name in part.infos)
        missing = [np.full_like(part.returns, np.nan) for part in parts]
        return cls(
            np.concatenate([part.returns for part in parts], axis=1),
            {
                name: np.concatenate(
                    [part.infos.get(name, nan) for part, nan in zip(parts, missing, strict=True)], axis=1
                )
                for name in names
            },
            parts[0].of_trials,
        )


@dataclass(frozen=True)
class Protocol:
    """How a policy is adapted and measured.

    Attributes:
        meta_params: theta, and the learned step sizes if any; None gives every task fresh weights of its own
            (the paper's randomly initialised baseline).
        steps: gradient steps.
        inner_lr: alpha of the first step, unless learned; all later steps take half of it (Finn et al. 2017,
            app. A.2).
        seed: of the rollouts.
        weights_seed: of the fresh weights: the run's, so that runs of several seeds are several such baselines.
        sample_timeout_s: longest time that the environment may take over one task's episodes, a training run's
            by default.
        deterministic: what is measured are episodes of mean actions; those that are adapted to are sampled.
    """

    spec: Policy
    meta_params: Params | None
    steps: int
    inner_lr: float
    gamma: float
    gae_lambda: float
    baseline_ridge: float
    seed: int
    weights_seed: int = 0
    sample_timeout_s: float = SAMPLE_TIMEOUT_S
    normalizer: Normalizer | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        checked("steps", self.steps, COUNT_OR_ZERO)
        checked("inner_lr", self.inner_lr, POSITIVE)
        checked("sample_timeout_s", self.sample_timeout_s, POSITIVE)

    def initial_params(self, first_task: int, tasks: int) -> tuple[Params, InnerLR]:
        """Parameters stacked over tasks, and the first step size."""
        if self.meta_params is not None:
            theta, inner_lr = split_meta_params(self.spec, self.meta_params, self.inner_lr)
            return stack_params(theta, tasks), inner_lr
        streams = [stream(self.weights_seed, Phase.INIT, first_task + i) for i in range(tasks)]
        fresh = [self.spec.init_params(int(of_task.generate_state(1)[0])) for of_task in streams]
        return {name: torch.stack([p[name] for p in fresh]) for name in fresh[0]}, self.inner_lr


class AdaptationStep(NamedTuple):
    """What the tasks give after a number of gradient steps.

    Attributes:
        params: stacked over tasks.
        trajectories: each task's episodes with them; those that are adapted to, if others are measured.
        returns: of each task; of trials, of each of its episodes.
        infos: likewise means of what ``info`` told.
    """

    params: Params
    trajectories: list[Trajectories]
    returns: list[list[float]]
    infos: list[list[dict[str, float]]]


def adaptation(
    env: TaskVectorEnv, protocol: Protocol, tasks: Tasks, first_task: int = 0
) -> Iterator[AdaptationStep]:
    """What ``tasks`` give after 0, 1, ... gradient steps.

    Every step uses the fresh episodes of the parameters before it. Every task has random streams of its own,
    named by its index: what happens to it does not depend on which other tasks are there.

    Args:
        env: made by ``make_task_env``; its number of copies is the number of episodes.
        first_task: index of ``tasks[0]``.
    """
    params, first_lr = protocol.initial_params(first_task, len(tasks))
    limit_s = protocol.sample_timeout_s
    for step in range(protocol.steps + 1):
        trajectories, returns, infos = [], [], []
        for i, task in enumerate(tasks):
            task_params = {name: value[i].detach().numpy() for name, value in params.items()}
            seed = stream(protocol.seed, Phase.EVALUATION, first_task + i, step)
            with time_limit(
                limit_s, f"task {first_task + i} took longer than sample_timeout_s={limit_s:g} s"
            ):
                play = partial(
                    rollout, env, task, protocol.spec, task_params, seed, normalizer=protocol.normalizer
                )
                measures = Measures(env)
                measured = play(*measures.observers, deterministic=protocol.deterministic)
                returns.append(measures.returns(measured))
                infos.append(measures.infos or [{}] * env.trial_episodes)
                sampled_too = protocol.deterministic and step < protocol.steps
                trajectories.append(play() if sampled_too else measured)
        yield AdaptationStep(params, trajectories, returns, infos)
        if step < protocol.steps:
            samples = make_samples(
                trajectories,
                protocol.spec,
                gamma=protocol.gamma,
                gae_lambda=protocol.gae_lambda,
                baseline_ridge=protocol.baseline_ridge,
                reward_scale=1.0 if protocol.normalizer is None else protocol.normalizer.reward_scale,
            )
            inner_lr = first_lr if step == 0 else _halved(first_lr)
            params = adapt(inner_loss(protocol.spec), params, [samples], inner_lr, first_order=True)


def evaluate(
    env: TaskVectorEnv,
    protocol: Protocol,
    tasks: Tasks,
    *,
    first_task: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> AdaptationResult:
    """Returns of every task after 0 .. k gradient steps, and what its environment told; see ``adaptation``.

    Args:
        on_progress: called with the number of tasks done.

    Raises:
        ValueError: there are no tasks.
        TimeoutError: the environment hangs; in the main thread only.
    """
    if len(tasks) == 0:
        raise ValueError("tasks is empty; evaluation needs at least one task")
    parts = []
    with one_thread():
        for start in range(0, len(tasks), TASKS_PER_CHUNK):
            chunk = tasks[start : start + TASKS_PER_CHUNK]
            steps = [
                row
                for step in adaptation(env, protocol, chunk, first_task + start)
                for row in _measured(step)
            ]
            names = dict.fromkeys(name for _, told in steps for task in told for name in task)
            infos = {
                name: np.array([[task.get(name, np.nan) for task in told] for _, told in steps])
                for name in names
            }
            parts.append(
                AdaptationResult(np.array([returns for returns, _ in steps]), infos, env.trial_episodes > 1)
            )
            on_progress(start + len(chunk))
    return AdaptationResult.joined(parts)


def _measured(step: AdaptationStep) -> Iterator[tuple[list[float], list[dict[str, float]]]]:
    """Each task's return, NaN if it diverged, and what it told; of trials, of one episode after the other."""
    finite = np.all([v.detach().isfinite().flatten(1).all(1).numpy() for v in step.params.values()], axis=0)
    # Parameters that are not finite act all the same: clipped, in a corner of the action box.
    for of_tasks, told_of_tasks in zip(
        zip(*step.returns, strict=True), zip(*step.infos, strict=True), strict=True
    ):
        returns = [value if known else np.nan for value, known in zip(of_tasks, finite, strict=True)]
        yield (
            returns,
            [{} if np.isnan(value) else told for value, told in zip(returns, told_of_tasks, strict=True)],
        )


def _halved(inner_lr: InnerLR) -> InnerLR:
    if isinstance(inner_lr, Mapping):
        return {name: value / 2 for name, value in inner_lr.items()}
    return inner_lr / 2


def markdown_table(
    rows: Mapping[str, Sequence[tuple[float, float | None]]], *, of_trials: bool = False
) -> str:
    """Rows of ``mean +- interval`` after 0, 1, ... gradient steps, as a Markdown table.

    Of trials the columns are their episodes, from 1.
    """
    steps = max(len(row) for row in rows.values())
    title, first = ("return of episode", 1) if of_trials else ("returns after gradient steps", 0)
    lines = [
        f"| {title} | " + " | ".join(str(first + k) for k in range(steps)) + " |",
        "|---|" + "---|" * steps,
    ]
    for name, row in rows.items():
        cells = [
            f"{mean:.2f}" + ("" if width is None or np.isnan(width) else f" ± {width:.2f}")
            for mean, width in row
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
