"""One run at a time in a folder."""

import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
from typing import IO, Any

from moejax.sharding.processes import agreed, is_writer
from moejax.train.disk import writing

logger = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """Another process trains in the folder."""


class Lock:
    """Held while it is entered; the processes of one run count as one, of which the first holds it.

    A record lock of the operating system on `workdir/lock`: it ends with the process that holds it, however that ends, so that
    none is left behind; processes forked from it do not keep it; NFS carries it to other hosts. The file stays, and says who
    had it last. Where a file system has no locks a warning says so and the run goes on unguarded.
    Raises BusyError naming process and host of the holder, DiskError where the file cannot be made. Source: ours, over lockf(3).
    """

    def __init__(self, workdir: pathlib.Path) -> None:
        self.path = workdir / "lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> "Lock":
        holder = self._take() if is_writer() else None
        if not agreed(holder is None):
            raise BusyError(
                f"{self.path.parent} is in use by {holder or 'another run'}; wait until it ends, stop it, or give another "
                "--workdir."
            )
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self) -> str | None:
        """None once it is held; else who holds it."""
        with writing(self.path):
            self._file = self.path.open("a+")
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self._file.seek(0)
                holder = _described(self._file.read())
                self._file.close()
                self._file = None
                return holder
            except OSError as error:
                logger.warning("%s cannot be locked (%s): nothing keeps a second run out", self.path, error.strerror)
            self._file.truncate(0)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}) + "\n")
            self._file.flush()
        return None


def _described(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {found['pid']} on {found['host']} (since {found['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
