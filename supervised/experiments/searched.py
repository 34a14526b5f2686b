"""Supervised runs as a search knows them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from maml_rl.tools.memory import keep_freed_memory
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.searched import SCORE, Result, Searched, Training
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.experiment import Experiment, describe
from supervised.experiments.training import TrainingRun, validation_score
from supervised.models.model_file import load


class SearchedExperiment(Searched):
    """An experiment: best is the highest accuracy on validation tasks at any validation, or the least loss."""

    fields = tuple(field.name for field in dataclasses.fields(ExperimentConfig))
    score_name = "best validation so far (accuracy, or minus the loss)"

    def __init__(self, experiment: Experiment, preset: str, device: torch.device) -> None:
        self.experiment, self._preset, self._device = experiment, preset, device
        self.iterations, self.seed = experiment.config.iterations, experiment.config.seed

    def check(self, values: Mapping[str, Any]) -> None:
        dataclasses.replace(self.experiment.config, **values)

    def check_all(self) -> None:
        # Of a copy: trials are told the experiment, and read the images themselves.
        dataclasses.replace(self.experiment).trainer(self._device)

    def description(self) -> dict[str, Any]:
        return describe(self.experiment, self._preset)

    def training(self, values: Mapping[str, Any]) -> Training:
        config = dataclasses.replace(self.experiment.config, **values)
        return SupervisedTraining(Experiment(config, self.experiment.data), self._preset, self._device)

    def resources(self) -> dict[str, float]:
        return {"CPU": 1, "GPU": 1} if self._device.type == "cuda" else {"CPU": 1}

    def results(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        best, results = -math.inf, []
        for row in rows:
            if not math.isnan(row["validation_loss"]):
                best = max(best, validation_score(row))
                results.append({**row, SCORE: best})
        return results


class SupervisedTraining(Training):
    """A run that is trained from validation to validation; data are read when that begins."""

    _checkpoint: Path | None
    _same: bool
    _run: RunDirectory

    def __init__(self, experiment: Experiment, preset: str, device: torch.device) -> None:
        self._experiment, self._device = experiment, device
        self.description = describe(experiment, preset)
        self._training: TrainingRun | None = None

    def begin(self, run: RunDirectory, checkpoint: Path | None, *, same: bool) -> None:
        self._run, self._checkpoint, self._same = run, checkpoint, same

    def _begun(self) -> TrainingRun:
        if self._training is not None:
            return self._training
        keep_freed_memory()
        experiment, quiet = self._experiment, Console(quiet=True)
        trainer = experiment.trainer(self._device)
        training = TrainingRun(
            trainer, experiment.problem.validate, experiment.config, self._run, console=quiet
        )
        if self._checkpoint is not None:
            training.restore(self._checkpoint, same=self._same)
        self._training = training
        return training

    def kept(self, checkpoint: Path) -> tuple[int, float]:
        info = load(checkpoint).info
        return info["iteration"], -math.inf if info["best_score"] is None else info["best_score"]

    @property
    def iteration(self) -> int:
        return 0 if self._training is None else self._training.trainer.iteration

    def step(self) -> Result:
        training = self._begun()
        while True:
            row = training.iterate()
            if row is not None and not math.isnan(row["validation_loss"]):
                return {**row, SCORE: training.best_score}

    def save(self) -> None:
        if self._training is not None:
            self._training.save()

    def write_checkpoint(self, path: Path) -> None:
        self._begun().write_checkpoint(path)

    def load_checkpoint(self, path: Path) -> None:
        self._begun().restore(path, same=False)

    def close(self) -> None:
        if self._training is not None:
            self._training.close()
