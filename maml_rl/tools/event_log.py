"""Rows of ``progress.csv`` for TensorBoard, written at once: a full disk is an error where it happens."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from maml_rl.tools.files import errors_of


class EventLog:
    """One event file of a run.

    Args:
        prefix: of the names of the curves.
        purge_step: what earlier files say of this step and later ones is void: a resumed run computes it again.
    """

    def __init__(self, folder: Path, prefix: str, purge_step: int) -> None:
        self._prefix = prefix
        # A name of its own, also where a run is resumed within the second.
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._folder = folder
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=started))

    def append(self, row: Mapping[str, float], step: int) -> None:
        """Add the finite values of a row: what a method or a refused update does not have is NaN."""
        with errors_of(self._folder):
            for name, value in row.items():
                if math.isfinite(value):
                    scalar = summary.scalar(f"{self._prefix}/{name}", value)
                    self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with errors_of(self._folder):
            self._writer.close()
