"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

# One thread per operation, here and in the processes that tests start: the matrices are small, results do not
# depend on it, and threads that wait for each other cost a busy machine many times the work. Before torch comes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from paths import SUPPORT


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real Ray cluster on this machine, with more logical CPUs than a test asks for."""
    import ray

    from maml_rl.tools.ray_start import start_ray

    os.environ["PYTHONPATH"] = str(SUPPORT)  # runner processes import test environments
    start_ray(None, 12)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[str], str]]:
    """An S3 server in this process with the bucket ``bucket``; gives the URI of what is at a path."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        FileSystem.from_uri(f"s3://?{query}&allow_bucket_creation=true")[0].create_dir("bucket")
        yield lambda path: f"s3://{path}?{query}"
    server.stop()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for Ray: `-m "not ray"` leaves the tests that run in this process alone."""
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
