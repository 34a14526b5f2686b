"""Connect to a Ray cluster, or start a local one."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray

from maml_rl.tools.run_directory import RunError


def start_ray(address: str | None, num_cpus: int | None = None) -> None:
    """Connect to ``address`` or RAY_ADDRESS, or start a local Ray with ``num_cpus`` (default: the machine's).

    Raises:
        RunError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            _check_reachable(address)
            ray.init(address=address, **options)
        else:
            # The runners import what this process can import from the present folder.
            paths = (os.getcwd(), os.environ.get("PYTHONPATH", ""))
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            # A token would be created in the user's home for a cluster nobody else can reach.
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)
    except (OSError, ValueError) as error:
        raise RunError(f"no Ray cluster at {address!r}: {error}") from error


def _check_reachable(address: str) -> None:
    """Ray itself keeps trying for minutes."""
    host, _, port = address.rpartition("://")[2].partition(":")
    if port:
        socket.create_connection((host, int(port)), timeout=10).close()
