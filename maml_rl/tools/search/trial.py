"""One configuration of a search: a run directory that ``train`` could have written."""

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

from maml_rl.tools.command_line import one_line
from maml_rl.tools.run_directory import CHECKPOINT, RunDirectory, RunError
from maml_rl.tools.search.searched import ERROR, SCORE, Result, Searched, Training, decoded
from maml_rl.tools.search.space import Dimension
from maml_rl.tools.storage import Place, child, local_path

HANDOVER_S = 30.0
"""Seconds that a trial waits for another process to let go of its run."""


@dataclass
class Shared:
    """What all trials are told.

    Attributes:
        exchanges: whether trials take over others' parameters, and are told new values with them.
    """

    searched: Searched
    space: Sequence[Dimension]
    exchanges: bool
    output: Place


class Trial(tune.Trainable):
    """One configuration: a run directory, and a training once its rows are to be computed."""

    def setup(self, config: dict[str, Any], shared: Shared | None = None) -> None:
        """Note what is to be done; the run is touched when the first step is asked for.

        Ray Tune may start a process for a trial, give the trial to one that has become free, and end the first: two
        processes, of which one is never asked for anything.
        """
        assert shared is not None, "passed by tune.with_parameters"
        self._stack = ExitStack()
        self._told: tuple[dict[str, Any], Shared] | None = (config, shared)
        self._training: Training | None = None
        self._past: list[Result] = []
        self._error = ""

    def _ensure_begun(self) -> None:
        """Begin a run, or go on with the one that is there.

        What goes wrong, here and in ``step``, is the trial's result: Ray Tune would print it, but not tell it.
        """
        told, self._told = self._told, None
        if told is None:
            return
        try:
            self._begin(*told)
        except Exception as error:  # whatever a configuration makes of anything raises
            self._error = one_line(error)

    def _begin(self, config: dict[str, Any], shared: Shared) -> None:
        folder = local_path(shared.output)
        if folder is not None and not folder.is_dir():
            raise RunError(
                f"{shared.output} is not there on {socket.gethostname()}; a search on several machines needs an "
                "--output that all of them see, or a URI"
            )
        training = shared.searched.training(decoded(config, shared.space))
        run, fresh = _opened(child(shared.output, self.trial_name), training.description)
        self._stack.enter_context(run.stored())
        self._wait_for_the_right_to_write(run)
        if shared.exchanges:
            run.describe_again(training.description)
        elif not fresh:
            _check_description(run, training.description)
        checkpoint = None if fresh else _checkpoint_of(run)
        training.begin(run, checkpoint, same=not shared.exchanges)
        self._training = training
        self._stack.callback(training.close)
        if checkpoint is not None and run.has_progress:
            self._past = _past(run, training.kept(checkpoint), shared)

    def _wait_for_the_right_to_write(self, run: RunDirectory) -> None:
        """A process that has just been told to pause this trial may still be writing."""
        give_up = time.monotonic() + HANDOVER_S
        while True:
            try:
                self._stack.enter_context(run.writing())
                return
            except RunError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(0.2)

    def step(self) -> Result:
        """A result of an earlier process, or a further one."""
        self._ensure_begun()
        if self._past:
            return self._past.pop(0)
        try:
            if self._training is not None and not self._error:
                return self._training.step()
        except Exception as error:  # likewise
            self._error = one_line(error)
        iteration = 0 if self._training is None else self._training.iteration
        return {"iteration": iteration, SCORE: -math.inf, ERROR: self._error, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        assert self._training is not None, "only what has begun is saved"
        self._training.write_checkpoint(Path(checkpoint_dir) / CHECKPOINT)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self._ensure_begun()
        if self._training is not None:  # else the next step says why
            self._training.load_checkpoint(Path(checkpoint_dir) / CHECKPOINT)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, without a new process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Keep what was computed."""
        with self._stack:
            if self._training is not None:
                self._training.save()


def _past(run: RunDirectory, kept: tuple[int, float], shared: Shared) -> list[Result]:
    """What an earlier process reported; where trials exchange parameters, only the end of a run."""
    iteration, score = kept
    rows = [row for row in run.progress() if row["iteration"] <= iteration]
    results = shared.searched.results(rows)
    if not shared.exchanges or not results:
        return results
    return [{**results[-1], SCORE: score}] if iteration >= shared.searched.iterations else []


def _opened(place: Place, description: Mapping[str, Any]) -> tuple[RunDirectory, bool]:
    """A trial's run, and whether it is new."""
    try:
        return RunDirectory.open(place), False
    except RunError:  # as a rule because it is not there; else `create` says what is wrong
        return RunDirectory.create(place, description), True


def _checkpoint_of(run: RunDirectory) -> Path | None:
    try:
        return run.checkpoint
    except RunError:  # interrupted before its first
        return None


def _check_description(run: RunDirectory, description: Mapping[str, Any]) -> None:
    stored = run.description()["config"]
    for name, value in json.loads(json.dumps(description["config"])).items():
        if stored.get(name) != value:
            raise RunError(
                f"{name} is {value!r}, but the trial in {run.place} was started with {stored.get(name)!r}: "
                "a search that is gone on with keeps its space, seed and algorithm"
            )
