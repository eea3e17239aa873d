"""TensorBoard's event files, written by the thread that calls."""

import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2


class Events:
    """Scalars in a new event file of `folder`; what older files hold from step `purge` on no longer counts.

    tensorboardX's own SummaryWriter hands events to a thread, which a full disk ends: the next writes then wait for ever. Here
    the OSError is raised where the row is written. Source: ours, over tensorboardX's encoding.
    """

    def __init__(self, folder: pathlib.Path, *, purge: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Names hold the second alone: two starts in one would share a file, and the first one's events be lost.
        suffix = f".{len(list(folder.iterdir())):03d}"
        self._writer = EventsWriter(os.path.join(folder, "events"), filename_suffix=suffix)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=purge, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes all of one step; in the file when it returns."""
        entries = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=entries)))
        self._writer.flush()

    def shares(self, step: int, tag: str, values: Sequence[float]) -> None:
        """A vector over experts as a histogram: a bar per expert, from e to e + 1, as high as its value."""
        count = len(values)
        moments = [sum((e + 0.5) ** power * value for e, value in enumerate(values)) for power in (1, 2)]
        found = summary.histogram_raw(
            tag, 0.0, float(count), sum(values), *moments, [float(e) for e in range(count + 1)], [0.0, *values]
        )
        self._write(event_pb2.Event(step=step, summary=found))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """A page of the text tab."""
        self._write(event_pb2.Event(step=step, summary=summary.text(tag, markdown)))

    def settings(self, values: Mapping[str, str | bool | int | float], metrics: Sequence[str]) -> None:
        """The run's line in the tab that compares runs: its settings, and the scalars by which it is judged."""
        for found in summary.hparams(dict(values), dict.fromkeys(metrics))[:2]:  # the third says that the run has ended
            self._write(event_pb2.Event(summary=found))

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
