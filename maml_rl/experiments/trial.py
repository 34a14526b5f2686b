"""One configuration of a search: a run directory that ``maml-rl train`` could have written."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from maml_rl.experiments.plan import Plan
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import RecentReturns, Recorder, describe
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.maml import MAML
from maml_rl.tools.checks import plain
from maml_rl.tools.command_line import one_line
from maml_rl.tools.run_directory import CHECKPOINT, RunError
from maml_rl.tools.search_space import Dimension
from maml_rl.tools.storage import Place, child, local_path

SCORE = "score"
"""What is maximised: the return after adaptation, averaged over the last ten iterations."""
ERROR = "error"
"""Why a trial failed, in its last result."""
HANDOVER_S = 30.0
"""Seconds that a trial waits for another process to let go of its run."""


def trial_config(base: MAMLConfig, values: Mapping[str, Any]) -> MAMLConfig:
    """The configuration of one trial."""
    config = base.copy(copy_frozen=False)
    for name, value in values.items():
        setattr(config, name, plain(value))
    return config


def decoded(drawn: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """The searched fields, from what was drawn."""
    return {dimension.name: dimension.decoded(drawn[dimension.name]) for dimension in space}


def trial_place(output: Place, number: int) -> Place:
    """Where a trial's run is."""
    return child(output, trial_name(number))


def trial_name(number: int) -> str:
    """The name of a trial and of its run directory."""
    return f"trial-{number:05d}"


@dataclass
class Shared:
    """What all trials are told.

    Attributes:
        plan: the run that every trial is but for the searched fields.
        exchanges: whether trials take over others' parameters, and are told new values with them.
    """

    plan: Plan
    space: Sequence[Dimension]
    exchanges: bool
    output: Place


class Trial(tune.Trainable):
    """One configuration: a run directory, and an algorithm once its rows are to be computed."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Begin a run, or go on with the one that is there.

        What goes wrong, here and in ``step``, is the trial's result: Ray Tune would print it, but not tell it.
        """
        assert shared is not None, "passed by tune.with_parameters"
        self._stack = ExitStack()
        self._algo: MAML | None = None
        self._error = ""
        try:
            self._begin(config, shared)
        except Exception as error:  # whatever a configuration makes of anything raises
            self._error = one_line(error)

    def _begin(self, config: dict[str, Any], shared: Shared) -> None:
        self._shared, plan = shared, shared.plan
        self._config = trial_config(plan.config, decoded(config, shared.space))
        place = child(shared.output, self.trial_name)
        folder = local_path(shared.output)
        if folder is not None and not folder.is_dir():
            raise RunError(
                f"{shared.output} is not there on {socket.gethostname()}; a search on several machines needs an "
                "--output that all of them see, or a URI"
            )
        description = describe(self._config, plan.preset, plan.method, plan.iterations, plan.checkpoint_every)
        self._run, fresh = _opened(place, description)
        self._stack.enter_context(self._run.stored())
        self._wait_for_the_right_to_write()
        self._recorder = Recorder(self._config, self._run, plan.preset, plan.method, plan.checkpoint_every)
        self._stack.callback(self._recorder.close)
        self._checkpoint = None if fresh else _checkpoint_of(self._run)
        self._replayed: list[dict[str, float]] = []
        self._recent = RecentReturns()
        if self._shared.exchanges:
            self._run.describe_again(description)
        elif not fresh:
            _check_description(self._run, description)
        self._replay()

    def _wait_for_the_right_to_write(self) -> None:
        """A process that has just been told to pause this trial may still be writing."""
        give_up = time.monotonic() + HANDOVER_S
        while True:
            try:
                self._stack.enter_context(self._run.writing())
                return
            except RunError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(0.2)

    def _replay(self) -> None:
        """Report rows of an earlier process again; where trials exchange parameters, only the end of a run."""
        if self._checkpoint is None or not self._run.has_progress:
            return
        training = load_policy(self._checkpoint).info["training"]
        rows = [row for row in self._run.progress() if row["iteration"] <= training["iteration"]]
        if not self._shared.exchanges:
            self._replayed = rows
        elif training["iteration"] >= self._shared.plan.iterations:
            self._replayed = rows[-1:]
            self._recent = RecentReturns(training["recent_returns"][:-1])

    def _algorithm(self) -> MAML:
        if self._algo is not None:
            return self._algo
        algo: MAML = self._config.build_algo()
        self._algo = algo
        self._stack.callback(algo.stop)
        if self._checkpoint is not None:
            self._recorder.load(algo, self._checkpoint, same=not self._shared.exchanges)
        self._run.repair_progress(algo.iteration)
        return algo

    def step(self) -> dict[str, Any]:
        """A row of ``progress.csv``: of an earlier process, or one more iteration."""
        if self._replayed:
            row = self._replayed.pop(0)
            self._recent.add(row["return_post"])
            return {**row, SCORE: self._recent.mean}
        try:
            if not self._error:
                return {**self._recorder.step(self._algorithm()), SCORE: self._recorder.score}
        except Exception as error:
            self._error = one_line(error)
        iteration = 0 if self._algo is None else self._algo.iteration
        return {"iteration": iteration, SCORE: -math.inf, ERROR: self._error, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """For another trial, or for this one after a pause."""
        self._recorder.write_checkpoint(self._algorithm(), Path(checkpoint_dir) / CHECKPOINT)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from another trial's parameters, or this one's."""
        algo = self._algorithm()
        self._recorder.load(algo, Path(checkpoint_dir) / CHECKPOINT, same=False)
        self._run.repair_progress(algo.iteration)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, without a new process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Keep what was computed."""
        if self._algo is not None:
            self._recorder.save(self._algo)
        self._stack.close()


def _opened(place: Place, description: Mapping[str, Any]) -> tuple[Run, bool]:
    """A trial's run, and whether it is new."""
    try:
        return Run.open(place), False
    except RunError:  # as a rule because it is not there; else `create` says what is wrong
        return Run.create(place, description), True


def _checkpoint_of(run: Run) -> Path | None:
    try:
        return run.checkpoint
    except RunError:  # interrupted before its first
        return None


def _check_description(run: Run, description: Mapping[str, Any]) -> None:
    stored = run.description()["config"]
    for name, value in json.loads(json.dumps(description["config"])).items():
        if stored.get(name) != value:
            raise RunError(
                f"{name} is {value!r}, but the trial in {run.place} was started with {stored.get(name)!r}: "
                "a search that is gone on with keeps its space, seed and algorithm"
            )
