"""A time limit interrupts what hangs, and leaves no alarm behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from maml_rl.tools.time_limit import time_limit


def test_what_hangs_is_interrupted() -> None:
    with pytest.raises(TimeoutError, match="too long"), time_limit(0.1, "too long"):
        time.sleep(3600)


def test_one_that_catches_everything_is_interrupted_again() -> None:
    caught = 0
    with time_limit(0.1, "too long"):
        while caught < 2:
            try:
                time.sleep(3600)
            except TimeoutError:
                caught += 1


def test_nothing_is_left_behind() -> None:
    before, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with time_limit(1000, "too long"):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] <= timer[0]  # that of the tests' own limit


def test_other_threads_have_no_limit() -> None:
    done = []

    def work() -> None:
        with time_limit(0.01, "too long"):
            time.sleep(0.1)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
