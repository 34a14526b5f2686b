"""Meta-RL runs as a search knows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from maml_rl.experiments.plan import Plan
from maml_rl.experiments.training import RecentReturns, Recorder, describe
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.maml import MAML
from maml_rl.rllib.rules import TRAINING_FIELDS
from maml_rl.tools.checks import plain
from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.searched import SCORE, Result, Searched, Training


def changed(base: MAMLConfig, values: Mapping[str, Any]) -> MAMLConfig:
    """The configuration of one trial."""
    config = base.copy(copy_frozen=False)
    for name, value in values.items():
        setattr(config, name, plain(value))
    return config


class SearchedPlan(Searched):
    """A plan: best is the highest return after adaptation, averaged over the last ten iterations."""

    fields = TRAINING_FIELDS
    score_name = "mean return after adaptation"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.iterations, self.seed = plan.iterations, plan.config.seed

    def check(self, values: Mapping[str, Any]) -> None:
        changed(self.plan.config, values).validate()

    def check_all(self) -> None:
        self.plan.check().close()

    def description(self) -> dict[str, Any]:
        return _described(self.plan, self.plan.config)

    def training(self, values: Mapping[str, Any]) -> Training:
        return MetaTraining(self.plan, changed(self.plan.config, values))

    def resources(self) -> Any:
        return MAML.default_resource_request(self.plan.config)

    def results(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        recent, results = RecentReturns(), []
        for row in rows:
            recent.add(row["return_post"])
            results.append({**row, SCORE: recent.mean})
        return results


class MetaTraining(Training):
    """A run that is trained iteration by iteration; its algorithm is built when that begins."""

    _recorder: Recorder
    _checkpoint: Path | None
    _same: bool
    _run: RunDirectory

    def __init__(self, plan: Plan, config: MAMLConfig) -> None:
        self._plan, self._config = plan, config
        self.description = _described(plan, config)
        self._stack = ExitStack()
        self._algo: MAML | None = None

    def begin(self, run: RunDirectory, checkpoint: Path | None, *, same: bool) -> None:
        plan = self._plan
        self._run = run
        self._recorder = Recorder(self._config, self._run, plan.preset, plan.method, plan.checkpoint_every)
        self._stack.callback(self._recorder.close)
        self._checkpoint, self._same = checkpoint, same

    def kept(self, checkpoint: Path) -> tuple[int, float]:
        training = load_policy(checkpoint).info["training"]
        returns = [math.nan if value is None else value for value in training["recent_returns"]]
        return training["iteration"], RecentReturns(returns).mean

    @property
    def iteration(self) -> int:
        return 0 if self._algo is None else self._algo.iteration

    def _algorithm(self) -> MAML:
        if self._algo is not None:
            return self._algo
        algo: MAML = self._config.build_algo()
        self._algo = algo
        self._stack.callback(algo.stop)
        if self._checkpoint is not None:
            self._recorder.load(algo, self._checkpoint, same=self._same)
        self._run.repair_progress(algo.iteration)
        return algo

    def step(self) -> Result:
        row = self._recorder.step(self._algorithm())
        return {**row, SCORE: self._recorder.score}

    def save(self) -> None:
        if self._algo is not None:
            self._recorder.save(self._algo)

    def write_checkpoint(self, path: Path) -> None:
        self._recorder.write_checkpoint(self._algorithm(), path)

    def load_checkpoint(self, path: Path) -> None:
        algo = self._algorithm()
        self._recorder.load(algo, path, same=False)
        self._run.repair_progress(algo.iteration)

    def close(self) -> None:
        self._stack.close()


def _described(plan: Plan, config: MAMLConfig) -> dict[str, Any]:
    return describe(config, plan.preset, plan.method, plan.iterations, plan.checkpoint_every)
