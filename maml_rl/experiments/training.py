"""A training run from start to finish: Ray, run directory, progress, checkpoints, interruption."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from tensorboardX import SummaryWriter

from maml_rl.experiments.methods import MethodName
from maml_rl.experiments.run import Run
from maml_rl.policies.policy_file import POLICY, save_policy
from maml_rl.rllib.config import TRAINING_FIELDS, MAMLConfig
from maml_rl.rllib.learner import NumpyParams
from maml_rl.rllib.maml import MAML
from maml_rl.tools.interruption import interruptible
from maml_rl.tools.progress import progress_display
from maml_rl.tools.run_directory import RunError

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


@dataclass
class TrainingRun:
    """One run: ``config`` trained for ``iterations`` meta-updates in the run directory ``run``.

    Attributes:
        checkpoint_every: iterations between checkpoints; the best policy is saved whenever there is a new one.
        resume: continue from ``run``'s latest checkpoint.
        start_from: meta-parameters to begin with instead of fresh ones.
    """

    config: MAMLConfig
    run: Run
    preset: str
    method: MethodName
    iterations: int
    checkpoint_every: int = 10
    resume: bool = False
    start_from: NumpyParams | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __call__(self) -> dict[str, Any]:
        """Train; returns the last row of ``progress.csv``.

        An interrupt (Ctrl-C or SIGTERM) ends the run after the present iteration, with a checkpoint.
        """
        algo = self.config.build_algo()
        try:
            if self.resume:
                self._restore(algo)
            elif self.start_from is not None:
                algo.set_meta_params(self.start_from)
            with (
                interruptible() as interrupted,
                progress_display(self.console, self.iterations, algo.iteration, progress_line) as show,
            ):
                return self._loop(algo, interrupted, show)
        finally:
            algo.stop()

    def _restore(self, algo: MAML) -> None:
        path = self.run.checkpoint("latest")
        try:
            algo.restore_from_path(str(path / "algorithm"))
        except Exception as error:
            # RLlib lets out whatever a damaged pickle or directory raises.
            raise RunError(f"checkpoint {path} cannot be read: {type(error).__name__}: {error}") from error
        self.run.truncate_progress(algo.iteration)

    def _loop(self, algo: MAML, interrupted: threading.Event, show: Any) -> dict[str, Any]:
        returns = [row["return_post"] for row in self.run.progress()] if algo.iteration else []
        best = max((_recent_mean(returns[: i + 1]) for i in range(len(returns))), default=-math.inf)
        row: dict[str, Any] = {"iteration": algo.iteration}
        saved = algo.iteration
        if self.iterations == 0:
            self._save_policy(self.run.path / POLICY, algo, algo.meta_params(), 0, None)
        writer = SummaryWriter(str(self.run.path), purge_step=algo.iteration + 1)
        while algo.iteration < self.iterations and not interrupted.is_set():
            rolled_out = algo.meta_params()
            try:
                row = progress_row(algo.train())
            except Exception:
                if algo.iteration > saved:  # the failed iteration changed nothing: keep those before it
                    self._save_checkpoint(algo, _recent_mean(returns), ["latest"])
                raise
            self._record(row, writer)
            returns.append(row["return_post"])
            recent = _recent_mean(returns)
            names = []
            if recent > best:
                best = recent
                names.append("best")
                # The policy with these returns is the one that was rolled out, before the meta-update.
                self._save_policy(self.run.path / POLICY, algo, rolled_out, algo.iteration - 1, best)
            if algo.iteration % self.checkpoint_every == 0:
                names.append("latest")
                saved = algo.iteration
            if names:
                self._save_checkpoint(algo, recent, names)
            show(row)
        # Here and not in the loop: an interrupt may arrive anywhere in it.
        if algo.iteration > saved:
            self._save_checkpoint(algo, _recent_mean(returns), ["latest"])
        writer.close()
        if algo.iteration < self.iterations:
            self.console.print(
                f"interrupted after iteration {algo.iteration} of {self.iterations}; "
                f"continue with: maml-rl train --resume {self.run.path}",
                soft_wrap=True,
            )
        return row

    def _record(self, row: dict[str, Any], writer: SummaryWriter) -> None:
        self.run.append_progress(row)
        for name, value in row.items():
            if math.isfinite(value):  # what a method or a refused update does not have is NaN
                writer.add_scalar(f"maml/{name}", value, row["iteration"])

    def _save_checkpoint(self, algo: MAML, return_post: float, names: list[str]) -> None:
        written = self.run.new_checkpoint(algo.iteration)
        algo.save_to_path(str((written / "algorithm").resolve()))  # Ray takes a relative path for a URI
        self._save_policy(written / POLICY, algo, algo.meta_params(), algo.iteration, return_post)
        self.run.publish(written, algo.iteration, names)

    def _save_policy(
        self, path: Path, algo: MAML, params: NumpyParams, iteration: int, return_post: float | None
    ) -> None:
        config = self.config
        info = {
            "preset": self.preset,
            "method": self.method,
            "env": config.env,
            "env_config": dict(config.env_config),
            "iteration": iteration,
            "return_post": return_post,  # of the last BEST_WINDOW iterations
            **{name: getattr(config, name) for name in _KEPT_FIELDS},
        }
        save_policy(path, config.policy_spec(*algo.spaces["__env__"]), params, info)


def _recent_mean(returns: list[float]) -> float:
    """Mean of the last returns; -inf while one of them is missing from a refused update.

    One iteration's return depends on how hard its tasks happen to be: the best single one is the luckiest.
    """
    mean = sum(returns[-BEST_WINDOW:]) / len(returns[-BEST_WINDOW:])
    return mean if math.isfinite(mean) else -math.inf


def progress_row(result: dict[str, Any]) -> dict[str, Any]:
    """One row of ``progress.csv`` from a result of ``MAML.train``."""
    row: dict[str, Any] = {"iteration": result["training_iteration"]}
    nan = float("nan")  # a refused update has no KL
    row |= {name: float(result.get(name, nan)) for name in COLUMNS}
    row |= {f"seconds_{name}": float(result["seconds"].get(name, nan)) for name in SECONDS}
    row["seconds_total"] = float(result["time_this_iter_s"])
    return row


def progress_line(row: dict[str, Any]) -> str:
    """The progress line: returns before and after adaptation, KL, seconds per phase."""
    return (
        f"return {row['return_pre']:.2f} -> {row['return_post']:.2f}, KL {row['kl']:.4f}, "
        f"seconds: rollouts {row['seconds_rollouts']:.2f}, adaptation {row['seconds_adaptation']:.2f}, "
        f"meta-update {row['seconds_meta_update']:.2f}"
    )


def describe(config: MAMLConfig, preset: str, method: MethodName, iterations: int) -> dict[str, Any]:
    """``config.json``'s content: everything needed to repeat or resume the run."""
    fields = {name: getattr(config, name) for name in RESULT_FIELDS + RESOURCE_FIELDS}
    fields["env_config"] = dict(config.env_config)
    fields["hidden_sizes"] = list(config.hidden_sizes)
    return {
        "preset": preset,
        "method": method,
        "iterations": iterations,
        "config": fields,
        "started": time.strftime("%FT%T%z"),
    }
