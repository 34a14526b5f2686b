"""The cluster file is valid, and a job submitted to a real local cluster trains."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from paths import ROOT

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


@pytest.mark.slow
def test_submitted_job_trains(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    env.pop("RAY_ADDRESS", None)

    def call(*command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=True
        )

    ports = ("--port=6390", "--dashboard-port=8275", "--dashboard-agent-grpc-port=52399")
    call("ray", "start", "--head", "--num-cpus=2", *ports, "--dashboard-agent-listen-port=52398")
    try:
        run = tmp_path / "run"
        job = ("maml-rl", "train", "point-nav", "--iterations", "5", "--meta-batch-size", "4")
        submit = ("ray", "job", "submit", "--address", "http://127.0.0.1:8275", "--working-dir", ".")
        result = call(*submit, "--", *job, "--output", str(run), timeout=300)
        assert "succeeded" in result.stdout
        assert "iteration 5/5" in result.stdout
        assert (run / "policy.safetensors").exists()
    finally:
        subprocess.run(["ray", "stop", "--force"], env=env, capture_output=True, timeout=60)
