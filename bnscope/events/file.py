"""An event file of TensorBoard, written in the background.

TensorBoard's own `EventFileWriter` prints a traceback from its thread when the disk is full,
so only its record format is used; TensorFlow is not needed.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnscope.events.background import Background

_count = itertools.count()
# So many records may wait for the disk before training waits too.
_MOST_PENDING = 1000


class EventFile:
    """One event file.

    Args:
        directory: created if it does not exist.

    Raises:
        OSError: if the directory or the file cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        name = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_count):06d}"
        self.path = directory / f"events.out.tfevents.{name}.bnscope"
        self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        self._background = Background("bnscope-events", _MOST_PENDING)
        self._event = Event
        first = Event(wall_time=time.time(), file_version="brain.Event:2")
        self.add(lambda: first)

    def summary(self, step: int, make: Callable[[], Any]) -> None:
        """Adds a summary at a step; it is on disk a moment later.

        Args:
            step: the step.
            make: makes the summary, in the background, out of values that do not change.

        Raises:
            OSError: if an earlier record could not be written.
        """
        now = time.time()
        self.add(lambda: self._event(wall_time=now, step=step, summary=make()))

    def add(self, make: Callable[[], Any]) -> None:
        """Adds an event, which is made in the background."""
        self._background.add(self._write, make)

    def close(self) -> None:
        """Writes what is left and closes the file.

        Raises:
            OSError: if a record could not be written.
        """
        try:
            self._background.close()
        finally:
            self._file.close()

    def _write(self, make: Callable[[], Any]) -> None:
        self._records.write(make().SerializeToString())
        self._file.flush()
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} was removed")
