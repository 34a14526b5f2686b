"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from paths import SUPPORT


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real Ray cluster on this machine, with more logical CPUs than a test asks for."""
    import ray

    os.environ["PYTHONPATH"] = str(SUPPORT)  # runner processes import test environments
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
