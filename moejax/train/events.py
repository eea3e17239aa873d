"""TensorBoard's event files, written by the thread that calls."""

import os
import pathlib
import time
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2


class Events:
    """Scalars in a new event file of `folder`; what older files hold from step `purge` on no longer counts.

    tensorboardX's own SummaryWriter hands events to a thread, which a full disk ends: the next writes then wait for ever. Here
    the OSError is raised where the row is written. Source: ours, over tensorboardX's encoding.
    """

    def __init__(self, folder: pathlib.Path, *, purge: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The name has the second; with the nanoseconds, a start within the same second takes no other's file.
        self._writer = EventsWriter(os.path.join(folder, "events"), f".{time.time_ns()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=purge, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes all of one step; in the file when it returns."""
        entries = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=entries)))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
