"""Disks that are full, read-only or gone: one line that says which file, why, and how to go on."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKED = {errno.EROFS, errno.EACCES, errno.EPERM}


class DiskError(RuntimeError):
    """A file of the run cannot be written."""


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns every OSError inside into a DiskError that names `path`. Source: ours."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DiskError(f"{path} cannot be written: {reason}. {way_out(error.errno)}") from error


def way_out(number: int | None) -> str:
    """What to do about an errno."""
    if number in _ROOM:
        return "Make room and run the same command: it goes on from the last checkpoint."
    if number in _LOCKED:
        return "Make the folder writable and run the same command, or give another --workdir."
    return "Give a --workdir that is a folder, or can become one."


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes the file so that it has its old content or its new one, whenever the process is killed. Raises DiskError."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(text)
        os.replace(partial, path)
