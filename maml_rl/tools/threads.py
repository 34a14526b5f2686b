"""Parallelism of the learner on a CPU: threads over chunks of tasks, each with single-threaded operations.

Compared with threads inside each operation this needs no barrier after every one of them: it is as fast on an
idle machine, and degrades in proportion where other processes compete for the cores (with barriers it was seen
to become 20 times slower). And because chunks are summed in order, results do not depend on the thread count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""Like the built-in ``map``: results in the order of the items."""


@contextmanager
def threads_over_chunks() -> Iterator[Map]:
    """A map that uses as many threads as torch has in this process; torch itself uses one meanwhile."""
    import torch  # runners of numpy policies do without it

    threads = torch.get_num_threads()
    if threads == 1:
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread(blas: ThreadpoolController | None = None) -> Iterator[None]:
    """Numpy, and torch where it is loaded, compute in this thread alone: for matrices as small as those of rollouts
    others do not pay, and their number would change the results.

    Args:
        blas: made in this process before, which takes a while.
    """
    with (blas or ThreadpoolController()).limit(limits=1):
        torch: Any = sys.modules.get("torch")
        if torch is None:
            yield
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
