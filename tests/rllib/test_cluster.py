"""The cluster file is valid, and a job submitted to a real local cluster trains."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from paths import ROOT
from ports import free_ports
from tiny_runs import tiny_config

from maml_rl import MAMLConfig
from maml_rl.rllib import resources
from maml_rl.rllib.resources import env_runners_that_fit
from maml_rl.tools.ray_start import start_ray
from maml_rl.tools.run_directory import RunDirectory

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent


def test_cluster_file_is_valid() -> None:
    from ray.autoscaler._private.util import fill_node_type_min_max_workers, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    # What `ray up` fills in by itself before it validates.
    config.setdefault("head_setup_commands", config["setup_commands"])
    config.setdefault("worker_setup_commands", config["setup_commands"])
    config.setdefault("initialization_commands", [])
    config.setdefault("cluster_synced_files", [])
    fill_node_type_min_max_workers(config)
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]


@contextmanager
def head_node(folder: Path) -> Iterator[tuple[dict[str, str], str, int]]:
    """A Ray of its own with a job server: the environment of its users, the server's address, Ray's own port.

    It is a process group of its own, and that alone is ended: other Rays of the machine go on.
    """
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    port, dashboard, agent, grpc, client = free_ports(5)
    head = subprocess.Popen(
        [
            *("ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={folder}"),
            *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={grpc}", f"--ray-client-server-port={client}"),
        ],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield env, f"http://127.0.0.1:{dashboard}", port
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)


OF_RAYS_CORE = re.compile(r"\[\d{4}-\d\d-\d\d .*\] \w+\.(cc|h):\d+: ")
"""A line that Ray's core, which is no Python, writes itself; on a busy machine one of a connection it gave up."""

OTHER_VERSION = """
import json, sys
from ray._common.usage import usage_lib
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
metadata = usage_lib.get_cluster_metadata(client) | {"ray_version": "2.1.0"}
client.internal_kv_put(b"CLUSTER_METADATA", json.dumps(metadata).encode(), True, b"cluster")
"""


def test_what_is_wrong_with_a_cluster_is_one_line(tmp_path: Path) -> None:
    def train(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
        tiny = ("--iterations", "1", "--meta-batch-size", "2", "--horizon", "5", "--num-env-runners", "0")
        return subprocess.run(
            [sys.executable, "-m", "maml_rl", "train", "point-nav", *tiny, "--address", address],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    with (
        tempfile.TemporaryDirectory(prefix="ray") as folder,
        head_node(Path(folder)) as (env, _, port),
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        (empty,) = free_ports(1)
        without = {k: v for k, v in env.items() if not k.startswith("RAY_AUTH")}
        for _ in range(60):  # until it has started
            right = train(f"127.0.0.1:{port}", **env)
            if "Connection refused" not in right.stderr:
                break
            time.sleep(1)
        assert right.returncode == 0, right.stderr
        # What a cluster of another Ray says of itself.
        subprocess.run(
            [sys.executable, "-c", OTHER_VERSION, f"127.0.0.1:{port}"], env=env, check=True, timeout=60
        )
        cases = {
            "Ray: 2.1.0 Python: 3.11": train(f"127.0.0.1:{port}", **env),
            "its token is another one": train(f"127.0.0.1:{port}", **{**env, "RAY_AUTH_TOKEN": "0" * 64}),
            "missing here (RAY_AUTH_MODE is 'disabled')": train(f"127.0.0.1:{port}", **without),
            "what answers there is no Ray": train(f"127.0.0.1:{silent.getsockname()[1]}", **env),
            "Connection refused": train(f"127.0.0.1:{empty}", **env),
            "a Ray Client runs outside": train(f"ray://127.0.0.1:{port}", **env),
            "it must be HOST:PORT, or auto": train("nonsense", **env),
        }
    for message, result in cases.items():
        assert message in result.stderr
        assert result.returncode == 2, result.stderr
        assert len([line for line in result.stderr.splitlines() if not OF_RAYS_CORE.match(line)]) == 1, (
            result.stderr
        )


@pytest.mark.usefixtures("local_ray")  # of 12 CPUs
@pytest.mark.parametrize(
    ("settings", "tasks", "expected"),
    [
        ({}, 40, 12),
        ({}, 4, 4),
        ({"num_learners": 1}, 40, 11),
        ({"num_learners": 1, "num_cpus_per_learner": 4}, 40, 8),
        ({"num_learners": 1, "num_cpus_per_learner": 12}, 40, 0),
        ({"num_cpus_per_env_runner": 2}, 40, 6),
        ({"num_cpus_per_env_runner": 0.5}, 40, 24),
    ],
)
def test_as_many_runners_as_the_cluster_has_room_for(
    settings: dict[str, Any], tasks: int, expected: int
) -> None:
    config = MAMLConfig()
    for name, value in settings.items():
        setattr(config, name, value)
    assert env_runners_that_fit(config, tasks) == expected


def test_submitted_job_trains(tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = (
        "maml-rl",
        "train",
        "point-nav",
        "--iterations",
        "5",
        "--meta-batch-size",
        "4",
        "--output",
        str(run),
    )
    # Ray's sockets must have short names.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, head_node(Path(folder)) as (env, address, _):
        command = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *job]
        for _ in range(30):  # until the job server answers
            result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
            if result.returncode == 0 or "Failed to connect" not in result.stderr:
                break
            time.sleep(2)
    assert "succeeded" in result.stdout, result.stdout + result.stderr
    assert "iteration 5/5" in result.stdout
    assert (run / "policy.safetensors").exists()
    assert RunDirectory.open(run).description()["config"]["num_env_runners"] == 2  # the cluster's CPUs


@pytest.mark.usefixtures("local_ray")
def test_a_start_that_waits_for_others_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Holder:  # here: processes of Ray's cannot import this file
        def ready(self) -> bool:
            return True

    # All CPUs are needed here, and a search before may have left one reserved for ever (Ray's, a placement
    # group prepared and never committed): a new Ray.
    ray.shutdown()
    start_ray(None, 12)
    monkeypatch.setattr(resources, "PATIENCE_S", 1.0)
    other = ray.remote(num_cpus=12)(Holder).remote()
    ray.get(other.ready.remote(), timeout=120)
    leave = threading.Timer(4.0, ray.kill, [other])
    leave.start()
    algo = tiny_config().env_runners(num_env_runners=2).build_algo()
    algo.stop()
    (said,) = [record.message for record in caplog.records if "still starting" in record.message]
    assert "of the Ray cluster's 12 CPUs 0 are free" in said
    assert "the run asks for 2 CPUs" in said
