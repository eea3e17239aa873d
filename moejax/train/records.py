"""What a run leaves to read: `metrics.jsonl`, one JSON object per line, and TensorBoard events."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.train.disk import write_whole, writing
from moejax.train.events import Events

Row = dict[str, Any]


def read_rows(path: str | pathlib.Path) -> list[Row]:
    """The rows of a metrics.jsonl, without a half-written last line; [] when there is no file."""
    path = pathlib.Path(path)
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Records:
    """Writers of one run, from `step` on: rows after it are cut away, so that a resumed file equals an uninterrupted one.

    unlogged: the row of `step` itself is still to come.
    writes: False only remembers the rows, as another process writes them. All raise DiskError where a file cannot be written.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        step: int,
        tensorboard: bool = True,
        writes: bool = True,
        unlogged: bool = False,
    ) -> None:
        self.path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_rows(self.path) if row["step"] <= step and not is_final(row)]
        if unlogged:
            self.rows = [row for row in self.rows if row["step"] < step or "skipped" in row]
        self._file, self._events = None, None
        if not writes:
            return
        write_whole(self.path, "".join(_line(row) for row in self.rows))
        with writing(self.path):
            self._file = self.path.open("a")
        if tensorboard:
            self.events = workdir / "tensorboard"
            with writing(self.events):
                self._events = Events(self.events, purge=step + 1)

    def write(self, row: Row) -> None:
        """Appends a row (arrays become lists); on disk when it returns."""
        row = {name: _plain(value) for name, value in row.items()}
        self.rows.append(row)
        if self._file is not None:
            with writing(self.path):
                self._file.write(_line(row))
                self._file.flush()
        if self._events is not None:
            scalars: dict[str, float] = {}
            for name, value in row.items():
                scalars |= _scalars(name, value)
            if scalars:
                with writing(self.events):
                    self._events.scalars(row["step"], scalars)

    def close(self) -> None:
        """Ends both files; what a full disk did not take of them is lost, and was said before."""
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()


def is_final(row: Mapping[str, Any]) -> bool:
    """True for the row that ends a run: it has a test result."""
    return any(name.startswith("test/") for name in row)


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        return np.asarray(value, np.float64).tolist()
    return value


def _scalars(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, list):
        return {f"{name}/{i:02d}": v for i, v in enumerate(value) if isinstance(v, float)}
    return {name: float(value)} if isinstance(value, (int, float)) and name != "step" else {}
