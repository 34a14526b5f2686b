"""A time limit on code of other people that runs in this process and may hang."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAMPLE_TIMEOUT_S = 600.0
"""For an environment, unless the user knows better."""


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Raise ``TimeoutError(message)`` inside the block when it takes longer than ``seconds``.

    By an alarm signal, which interrupts Python's code and waiting calls, but no library's. Outside the main thread
    and on systems without such signals there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(message)

    handler = signal.signal(signal.SIGALRM, ring)
    # Again every second: what rang may have been caught.
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        if handler is not None:  # one that Python knows
            signal.signal(signal.SIGALRM, handler)
