"""Connect to a Ray cluster, or start a local one."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray._raylet import (  # type: ignore[attr-defined]  # not in its stub
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)
from ray.exceptions import AuthenticationError

from maml_rl.tools.run_directory import RunError
from maml_rl.tools.user_folder import USER_FOLDER, look_in_users_folder

ANSWER_S = 8.0
"""Seconds in which a cluster must answer."""


def start_ray(address: str | None, num_cpus: int | None = None) -> None:
    """Connect to ``address`` or RAY_ADDRESS, or start a local Ray with ``num_cpus`` (default: the machine's).

    A process has one Ray: one that it is connected to already stays.

    A local Ray listens on all of the machine's addresses, so it asks for a token that only this process and its
    children know, unless the user has chosen RAY_AUTH_MODE. Its processes find modules of the present folder, which
    ``USER_FOLDER`` names, after all others, as this one does.

    Raises:
        RunError: no cluster answers at the address, or not to us, or it has another Ray or Python; or a local one
            does not start in the time that Ray gives it.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = cluster_named(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    first = f"{look_in_users_folder.__module__}.{look_in_users_folder.__qualname__}"
    folder = os.getcwd()
    try:
        if address:
            _check_reachable(address)
            variables = {USER_FOLDER: folder}
            options["runtime_env"] = {"env_vars": variables, "worker_process_setup_hook": first}
            with _away_from(folder):
                ray.init(address=address, **options)
        else:
            # Its processes inherit this; with a runtime environment each would take longer to start.
            os.environ |= {USER_FOLDER: folder, WORKER_PROCESS_SETUP_HOOK_ENV_VAR: first}
            if "RAY_AUTH_MODE" not in os.environ:
                _ask_for_a_token()
            with _away_from(folder):
                ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)
    except (OSError, ValueError) as error:
        raise RunError(f"no Ray cluster at {address!r}: {error}") from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        told = " ".join(str(error).split())
        raise RunError(
            f"the Ray cluster at {address!r} has other versions, and processes of both could not talk: {told}"
        ) from error
    except Exception as error:  # Ray raises no class of its own when its 30 s are over, which cannot be set
        if "timed out during startup" not in str(error):
            raise
        raise RunError(
            "Ray's processes did not start in its 30 s; try again when this machine has less to do"
        ) from error


def cluster_named(address: str | None) -> str | None:
    """The cluster that the user named, here or by RAY_ADDRESS."""
    return address or os.environ.get("RAY_ADDRESS")


@contextmanager
def _away_from(folder: str) -> Iterator[None]:
    """A working directory that Ray may put first on the import path of its processes, as it does.

    In the user's folder any file could stand in for a module. This one holds links to the running packages alone.
    """
    there = Path(tempfile.mkdtemp(prefix="maml_rl-"))
    atexit.register(shutil.rmtree, there, ignore_errors=True)  # not before: Ray's processes live there
    packages = Path(__file__).parents[2]
    for name in ("maml_rl", "supervised"):
        (there / name).symlink_to(packages / name)
    script = sys.argv[0]
    os.chdir(there)
    sys.argv[0] = os.path.join(folder, script)  # its folder is to be found as the program itself finds it
    try:
        yield
    finally:
        sys.argv[0] = script
        os.chdir(folder)


def _ask_for_a_token() -> None:
    """Token authentication for what this process starts; nothing is written to the user's home."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    Config.initialize("")  # Ray has read the environment when it was imported
    AuthenticationTokenLoader.instance().reset_cache()


def _check_reachable(address: str) -> None:
    """Ray itself keeps trying for minutes, and does not say what is wrong.

    Raises:
        OSError, ValueError: saying it.
    """
    if address.startswith("ray://"):
        raise ValueError(
            "a Ray Client runs outside of the cluster, which RLlib's algorithms cannot; give the address HOST:PORT "
            "of `ray start` on a machine of the cluster, or submit a job"
        )
    if address == "auto":
        address = str(services.canonicalize_bootstrap_address("auto"))
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("it must be HOST:PORT, or auto")
    socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            GcsClient(address=address)
        except Exception as error:  # whatever is wrong
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    with _silent_stderr():  # of Ray's C++ part, which warns several times
        thread.start()
        thread.join(ANSWER_S)
    if thread.is_alive():
        raise ConnectionError(f"what answers there is no Ray, or is busy for more than {ANSWER_S:g} s")
    if errors and isinstance(errors[0], AuthenticationError):
        mode = os.environ.get("RAY_AUTH_MODE", "disabled")
        raise ConnectionError(
            f"its token is another one, or missing here (RAY_AUTH_MODE is {mode!r}): set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token to what the cluster was started with"
        )


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing reaches the terminal, also not from code that is not Python's."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
