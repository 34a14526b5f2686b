"""Trials whose processes die, and processes that Ray Tune starts and does not use."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.search.search import MAX_DEATHS, new_search, run_search
from maml_rl.tools.search.searched import SCORE, Result, Searched, Training
from maml_rl.tools.search.space import parse_space
from maml_rl.tools.search.trial import Shared, Trial

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ITERATIONS = 3
SEED = 2
"""Draws one of each."""


class Counting(Training):
    """Counts to three in a run; its process is killed at two, ``deaths`` times."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.description = {"config": dict(values)}
        self._deaths, self._count = values["deaths"], 0

    def begin(self, run: RunDirectory, checkpoint: Path | None, *, same: bool) -> None:
        self._folder = Path(run.place)
        if checkpoint is not None:
            self._count = int(checkpoint.read_text())

    def kept(self, checkpoint: Path) -> tuple[int, float]:
        return int(checkpoint.read_text()), float(checkpoint.read_text())

    @property
    def iteration(self) -> int:
        return self._count

    def step(self) -> Result:
        with (self._folder / "counted").open("a") as file:
            print(self._count + 1, file=file)
        if self._count == 1 and len(list(self._folder.glob("death-*"))) < self._deaths:
            (self._folder / f"death-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1
        self.write_checkpoint(self._folder / "checkpoint.safetensors")
        return {"iteration": self._count, SCORE: float(self._count)}

    def save(self) -> None:
        """Each step has saved what there is."""

    def write_checkpoint(self, path: Path) -> None:
        path.write_text(str(self._count))

    def load_checkpoint(self, path: Path) -> None:
        self._count = int(path.read_text())

    def close(self) -> None:
        """Nothing is held."""


class Deaths(Searched):
    iterations, seed, fields, score_name = ITERATIONS, SEED, ("deaths",), "count"

    def check(self, values: Mapping[str, Any]) -> None:
        """All are possible."""

    def check_all(self) -> None:
        """Likewise."""

    def description(self) -> dict[str, Any]:
        return {"config": {}}

    def training(self, values: Mapping[str, Any]) -> Training:
        return Counting(values)

    def resources(self) -> Any:
        return {"CPU": 1}

    def results(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        return []


def test_a_trial_goes_on_in_another_process_but_not_for_ever(tmp_path: Path) -> None:
    search = new_search(Deaths(), [f"deaths=choice({MAX_DEATHS},{MAX_DEATHS + 1})"], 2, "none", None)
    output = RunDirectory.create(tmp_path / "search", {"config": {}})
    alive, dead = run_search(search, output, lambda trials, ended: None)
    counted = {trial.number: (Path(trial.place) / "counted").read_text().split() for trial in (alive, dead)}
    assert counted[alive.number] == ["1", *["2"] * (MAX_DEATHS + 1), "3"]  # from its checkpoint, each time
    assert (alive.score, alive.error) == (3, "")
    assert counted[dead.number] == ["1", *["2"] * (MAX_DEATHS + 1)]
    assert dead.score == -math.inf
    assert re.match(
        rf"it was begun {MAX_DEATHS + 1} times, and failed each time; the last: .*died", dead.error
    )


def test_a_process_that_is_never_asked_for_a_step_is_in_nobodys_way(tmp_path: Path) -> None:
    space = parse_space(["deaths=choice(0)"], Deaths.fields)
    shared = Shared(Deaths(), space, exchanges=False, output=tmp_path)
    trainable = tune.with_parameters(Trial, shared=shared)
    config = {"deaths": space[0].encoded(0)}
    given_up, asked = trainable(config), trainable(config)  # Ray Tune may start two and use one
    assert not list(tmp_path.iterdir())
    assert [asked.train()[SCORE] for _ in range(2)] == [1, 2]
    given_up.stop()
    assert asked.train()[SCORE] == 3
    asked.stop()
