"""A training run from start to finish: Ray, run directory, progress, checkpoints, interruption."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from maml_rl.envs.naming import naming_options
from maml_rl.experiments.methods import MethodName
from maml_rl.experiments.run import Run
from maml_rl.experiments.slowness import Slowness
from maml_rl.policies.policy import Policy
from maml_rl.policies.policy_file import POLICY, STATE, load_policy, save_policy
from maml_rl.rllib.activity import CLUSTER
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.learner_share import NumpyParams
from maml_rl.rllib.maml import MAML, TrainingState
from maml_rl.rllib.policy_builder import module_name
from maml_rl.rllib.rules import TRAINING_FIELDS
from maml_rl.tools.command_line import shell_line
from maml_rl.tools.event_log import EventLog
from maml_rl.tools.interruption import interruptible
from maml_rl.tools.progress import Row, progress_display
from maml_rl.tools.run_directory import CHECKPOINT, RunDirectory, RunError, RunFailedError

# What the parameters of a run depend on. The number of runners and learners is not among them.
RESULT_FIELDS = ("env", "env_config", "seed", *TRAINING_FIELDS)
RESOURCE_FIELDS = (
    "num_env_runners",
    "num_cpus_per_env_runner",
    "num_learners",
    "num_cpus_per_learner",
    "num_gpus_per_learner",
    "sample_timeout_s",
)
COLUMNS = (
    "return_pre",
    "return_post",
    "loss_before",
    "loss_after",
    "kl",
    "step_accepted",
    "backtracks",
    "gradient_norm",
    "env_steps",
    "diverged_episodes",
    "update_refused",
)
SUCCESSES = ("success_rate_pre", "success_rate_post")
"""Further columns where the environment tells ``info``."""
COUNTS = ("backtracks", "env_steps", "diverged_episodes")
BEST_WINDOW = 10
"""Iterations over which the return after adaptation is averaged to choose the best policy."""
_KEPT_FIELDS = (
    "inner_lr",
    "horizon",
    "episodes_per_task",
    "gamma",
    "gae_lambda",
    "baseline_ridge",
    "seed",
)
"""What the file of a policy says of its training."""
SECONDS = ("rollouts", "adaptation", "meta_update")


class Recorder:
    """Trains an algorithm iteration by iteration and keeps what a run directory holds."""

    def __init__(
        self,
        config: MAMLConfig,
        run: RunDirectory,
        preset: str,
        method: MethodName,
        checkpoint_every: int,
    ) -> None:
        """``run`` exists and is this process's to write."""
        self._config, self._run, self._preset, self._method = config, run, preset, method
        self._checkpoint_every = checkpoint_every
        self._recent = RecentReturns()
        self._saved = 0
        self._policy: Policy | None = None
        self._events: EventLog | None = None
        self._slowness, self.slow = Slowness(), ""

    def restore(self, algo: MAML) -> str:
        """Take algorithm and log to where the checkpoint is; returns a warning, or nothing.

        Raises:
            RunError: the checkpoint is not this run's, or lacks something.
        """
        self.load(algo, self._run.checkpoint, same=True)
        return self._run.repair_progress(algo.iteration)

    def load(self, algo: MAML, path: Path, *, same: bool) -> None:
        """Take the algorithm to a checkpoint.

        Args:
            same: refuse a checkpoint of another configuration.

        Raises:
            RunError: so, or it lacks something.
        """
        checkpoint = load_policy(path)
        try:
            training = checkpoint.info["training"]
            if same:
                _check_same(self._run.shown("config.json"), self._config, training["config"])
            remembered = {STATE + name: value for name, value in checkpoint.state.items()}
            learned = checkpoint.meta_params() | remembered
            algo.set_training_state(
                TrainingState(training["iteration"], training["refusals"], training["env_steps"], learned)
            )
            self._recent = RecentReturns(
                [math.nan if value is None else value for value in training["recent_returns"]],
                -math.inf if training["best"] is None else training["best"],
            )
        except (KeyError, TypeError) as error:
            raise RunError(f"checkpoint {path} lacks what training goes on from: {error!r}") from error
        self._saved = algo.iteration

    def step(self, algo: MAML) -> dict[str, Any]:
        """One meta-update, and its row of ``progress.csv``; ``slow`` says why it was, or nothing."""
        rolled_out = algo.meta_params()
        try:
            result = algo.train()
            row = progress_row(result)
        except Exception:
            self.save(algo)  # the failed iteration changed nothing: keep those before it
            raise
        self._run.append_progress(row)
        if self._events is None:
            self._events = EventLog(self._run.path, "maml", algo.iteration)
        cluster = {f"{CLUSTER}/{name}": float(value) for name, value in result[CLUSTER].items()}
        self._events.append(row | cluster, algo.iteration)
        self.slow = self._slowness.look(row, result[CLUSTER])
        if self._recent.add(row["return_post"]):
            # The policy with these returns is the one that was rolled out, before the meta-update.
            self._save(self._run.path / POLICY, algo, rolled_out, algo.iteration - 1, self._recent.best)
        if algo.iteration % self._checkpoint_every == 0:
            self.save(algo)
        return row

    @property
    def score(self) -> float:
        """Mean return after adaptation of the last iterations; -inf while one is missing."""
        return self._recent.mean

    def save_untrained(self, algo: MAML) -> None:
        """Fresh weights as the run's policy."""
        self._save(self._run.path / POLICY, algo, algo.meta_params(), 0, None)

    def save(self, algo: MAML) -> None:
        """Write the checkpoint, unless it is there already."""
        if algo.iteration > self._saved:
            self.write_checkpoint(algo, self._run.path / CHECKPOINT)
            self._run.store()
            self._saved = algo.iteration

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()

    def write_checkpoint(self, algo: MAML, path: Path) -> None:
        """All that later iterations depend on."""
        state = algo.training_state()
        training = {
            "iteration": state.iteration,
            "refusals": state.refusals,
            "env_steps": state.env_steps,
            "recent_returns": [_finite(value) for value in self._recent.returns],
            "best": _finite(self._recent.best),
            "config": result_fields(self._config),
        }
        remembered = {
            name.removeprefix(STATE): value for name, value in state.learned.items() if name.startswith(STATE)
        }
        self._save(
            path,
            algo,
            algo.meta_params(),
            state.iteration,
            self._recent.mean,
            remembered,
            training=training,
        )

    def _save(
        self,
        path: Path,
        algo: MAML,
        params: NumpyParams,
        iteration: int,
        return_post: float | None,
        state: NumpyParams | None = None,
        **more: Any,
    ) -> None:
        config = self._config
        if self._policy is None:  # made once: a module of the user's is tried out each time
            self._policy = config.policy_spec(*algo.spaces["__env__"])
        info = {
            "preset": self._preset,
            "method": self._method,
            "env": config.env,
            "env_config": dict(config.env_config),
            "iteration": iteration,
            "return_post": _finite(return_post),  # of the last BEST_WINDOW iterations
            **{name: getattr(config, name) for name in _KEPT_FIELDS},
            **more,
        }
        save_policy(path, self._policy, params, info, state)


@dataclass
class TrainingRun:
    """One run: ``config`` trained for ``iterations`` meta-updates in the run directory ``run``.

    Attributes:
        description: ``config.json``'s content for a new run, whose directory is made once the algorithm stands;
            None goes on from ``run``'s checkpoint.
        checkpoint_every: iterations between checkpoints; the best policy is saved whenever there is a new one.
        start_from: meta-parameters to begin with instead of fresh ones.
        verbose: explain slow iterations.
    """

    config: MAMLConfig
    run: Run
    preset: str
    method: MethodName
    iterations: int
    description: Mapping[str, Any] | None = None
    checkpoint_every: int = 10
    start_from: NumpyParams | None = None
    verbose: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __call__(self) -> dict[str, Any]:
        """Train; returns the last row of ``progress.csv``.

        An interrupt (Ctrl-C or SIGTERM) ends the run after the present iteration, with a checkpoint.

        Raises:
            RunError: the run cannot be gone on with, or another process writes here.
            RunFailedError: a file cannot be written, or not stored at the run's URI.
        """
        recorder = Recorder(self.config, self.run, self.preset, self.method, self.checkpoint_every)
        with ExitStack() as stack:
            if self.description is None:
                stack.enter_context(self.run.writing())
            algo: MAML = self.config.build_algo()
            stack.callback(algo.stop)
            if self.description is None:
                if damage := recorder.restore(algo):
                    self._say(f"warning: {damage}; it goes on from here")
            else:
                self.run.begin(self.description)
                stack.enter_context(self.run.writing())
                if self.start_from is not None:
                    algo.set_meta_params(self.start_from)
            stack.enter_context(self.run.stored())
            interrupted = stack.enter_context(interruptible())
            show = stack.enter_context(
                progress_display(self.console, self.iterations, algo.iteration, progress_line)
            )
            stack.callback(recorder.close)
            try:
                return self._loop(algo, recorder, interrupted, show)
            except OSError as error:
                if error.filename is None:  # not a file's: a time-out, for example
                    raise
                raise RunFailedError(f"{error.filename} cannot be written: {error.strerror}") from error

    def _loop(
        self, algo: MAML, recorder: Recorder, interrupted: threading.Event, show: Callable[[Row], None]
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"iteration": algo.iteration}
        if self.iterations == 0:
            recorder.save_untrained(algo)
        while algo.iteration < self.iterations and not interrupted.is_set():
            row = recorder.step(algo)
            show(row)
            if self.verbose and recorder.slow:
                self._say(recorder.slow)
        # Here and not in the loop: an interrupt may arrive anywhere in it.
        recorder.save(algo)
        if algo.iteration < self.iterations:
            names = naming_options(self.config.env, self.config.module)
            command = shell_line("maml-rl", "train", "--resume", self.run.place, *names)
            self._say(
                f"interrupted after iteration {algo.iteration} of {self.iterations}; continue with: {command}"
            )
        return row

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


@dataclass
class RecentReturns:
    """The returns after adaptation of the last iterations, by whose mean the best policy is chosen.

    One iteration's return depends on how hard its tasks happen to be: the best single one is the luckiest.
    """

    returns: list[float] = field(default_factory=list)
    best: float = -math.inf

    @property
    def mean(self) -> float:
        """Mean of the last returns; -inf while one of them is missing from a refused update."""
        mean = sum(self.returns) / len(self.returns) if self.returns else -math.inf
        return mean if math.isfinite(mean) else -math.inf

    def add(self, value: float) -> bool:
        """Add an iteration's return; whether the mean is now the best so far."""
        self.returns = [*self.returns, value][-BEST_WINDOW:]
        if not self.mean > self.best:
            return False
        self.best = self.mean
        return True


def _finite(value: float | None) -> float | None:
    """What strict JSON can hold."""
    return value if value is not None and math.isfinite(value) else None


def _check_same(file: str, config: MAMLConfig, trained: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not the checkpoint's: results would be of neither."""
    for name, value in result_fields(config).items():
        if name not in trained or trained[name] != value:
            raise RunError(
                f"{name} is {value!r} in {file}, but the checkpoint there was trained with "
                f"{trained.get(name)!r}: a resumed run keeps its configuration"
            )


def progress_row(result: dict[str, Any]) -> dict[str, Any]:
    """One row of ``progress.csv`` from a result of ``MAML.train``."""
    row: dict[str, Any] = {"iteration": result["training_iteration"]}
    nan = float("nan")  # a refused update has no KL
    row |= {name: float(result.get(name, nan)) for name in COLUMNS}
    row |= {name: float(result[name]) for name in SUCCESSES if name in result}
    row |= {name: int(row[name]) for name in COUNTS if math.isfinite(row[name])}
    row |= {f"seconds_{name}": float(result["seconds"].get(name, nan)) for name in SECONDS}
    row["seconds_total"] = float(result["time_this_iter_s"])
    return row


def progress_line(row: dict[str, Any]) -> str:
    """The progress line: returns before and after adaptation, KL, seconds per phase."""
    successes = [row[name] for name in SUCCESSES if math.isfinite(row.get(name, math.nan))]
    return (
        f"return {row['return_pre']:.2f} -> {row['return_post']:.2f}, "
        + (f"success {' -> '.join(f'{rate:.0%}' for rate in successes)}, " if successes else "")
        + f"KL {row['kl']:.4f}, "
        f"seconds: rollouts {row['seconds_rollouts']:.2f}, adaptation {row['seconds_adaptation']:.2f}, "
        f"meta-update {row['seconds_meta_update']:.2f}"
    )


def result_fields(config: MAMLConfig) -> dict[str, Any]:
    """All that the parameters of a run depend on, as JSON holds it."""
    fields = {name: getattr(config, name) for name in RESULT_FIELDS}
    if config.module is not None:
        fields["module"] = module_name(config.module)
    return {name: _as_lists(value) for name, value in fields.items()}


def _as_lists(value: Any) -> Any:
    """Tuples as JSON gives them back."""
    if isinstance(value, dict):
        return dict(value)
    return [_as_lists(x) for x in value] if isinstance(value, tuple) else value


def describe(
    config: MAMLConfig, preset: str, method: MethodName, iterations: int, checkpoint_every: int = 10
) -> dict[str, Any]:
    """``config.json``'s content: everything needed to repeat or resume the run."""
    return {
        "preset": preset,
        "method": method,
        "iterations": iterations,
        "checkpoint_every": checkpoint_every,
        "config": result_fields(config) | {name: getattr(config, name) for name in RESOURCE_FIELDS},
        "started": time.strftime("%FT%T%z"),
    }
