"""What a result says of the cluster, that Prometheus finds it, and that the dashboard asks for what there is."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import ray
from paths import ROOT
from tiny_runs import tiny_config

from maml_rl.rllib.activity import CLUSTER, COUNTERS, GAUGES, PREFIX, Activity

NAMES = set(Activity().numbers())


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("runners", [0, 2])
def test_every_result_tells_what_the_cluster_did(runners: int) -> None:
    algo = tiny_config(meta_batch_size=6).env_runners(num_env_runners=runners).build_algo()
    for _ in range(2):
        found = algo.train()[CLUSTER]
    algo.stop()
    assert set(found) == NAMES
    assert 0 < found["runner_utilization"] <= 1
    assert (found["mib_moved"] > 0) == (runners > 0)
    assert 0 < found["median_block_s"] <= found["slowest_block_s"]
    assert found["slowest_runner"] in range(1, 3) if runners else found["slowest_runner"] == 0
    for name in ("lost_blocks", "reissued_blocks", "runner_restarts", "learner_restarts"):
        assert found[name] == 0, name


@pytest.mark.usefixtures("local_ray")
def test_bytes_are_those_of_trajectories_and_parameters() -> None:
    config = tiny_config(meta_batch_size=4).env_runners(num_env_runners=1)
    algo = config.build_algo()
    found = algo.train()[CLUSTER]["mib_moved"] * 2**20
    algo.stop()
    parameters = sum(value.nbytes for value in algo.meta_params().values())
    # Two phases of 4 tasks, 3 episodes, 6 steps: 2 + 2 + 1 numbers a step, and a length an episode.
    lengths = 2 * 4 * 3 * np.dtype(np.int64).itemsize
    assert found == 2 * 4 * 3 * 6 * 5 * 4 + lengths + (1 + 4) * parameters


@pytest.mark.system
@pytest.mark.usefixtures("local_ray")
def test_a_runner_and_a_learner_that_die_are_counted(tmp_path: Path) -> None:
    config = tiny_config(meta_batch_size=6, num_learners=1).env_runners(num_env_runners=2)
    env_config = {"marker": str(tmp_path / "marker"), "driver": os.getpid()}
    algo = config.environment("user_envs:DiesOnce", env_config=env_config).build_algo()
    found = [algo.train()[CLUSTER]]
    # Until Ray is sure of its end the block may have been given to the other one.
    assert found[0]["lost_blocks"] + found[0]["reissued_blocks"] > 0
    (learner,) = algo.learner_group.foreach_learner(lambda learner: os.getpid())
    os.kill(learner.get(), signal.SIGKILL)
    found.append(algo.train()[CLUSTER])
    assert [x["learner_restarts"] for x in found] == [0, 1]
    deadline = time.monotonic() + 60  # the runner comes back while the other works
    while sum(x["runner_restarts"] for x in found) == 0 and time.monotonic() < deadline:
        found.append(algo.train()[CLUSTER])
    algo.stop()
    assert sum(x["runner_restarts"] for x in found) == 1


@pytest.mark.usefixtures("local_ray")
def test_prometheus_finds_every_metric() -> None:
    algo = tiny_config().env_runners(num_env_runners=1).build_algo()
    algo.train()
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline, missing = time.monotonic() + 60, {"all"}
    # Counters of what has not happened are not there.
    always = {*GAUGES, *(f"{name}_total" for name in ("iterations", "env_steps", "mib_moved"))}
    while missing and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        missing = {name for name in always if not re.search(rf'ray_{PREFIX}{name}{{.*env="maml_rl/Poi', text)}
        time.sleep(1)
    algo.stop()
    assert not missing


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    board = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(rf"ray_{PREFIX}(\w+)", target["expr"])
    }
    assert asked == {*GAUGES, *(f"{name}_total" for name in COUNTERS)}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert variables == {"datasource", "session", "env"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_documentation_names_them_all() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    assert set(re.findall(r"`(\w+)`", text)) >= NAMES
