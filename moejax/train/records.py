"""What a run leaves to read: `metrics.jsonl`, one JSON object per line, and TensorBoard events."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

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

    writes: False only remembers the rows, as another process writes them.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int, tensorboard: bool = True, writes: bool = True) -> None:
        self.path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_rows(self.path) if row["step"] <= step and not is_final(row)]
        self._file, self._events = None, None
        if not writes:
            return
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(_line(row) for row in self.rows))
        os.replace(partial, self.path)
        self._file = self.path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1) if tensorboard else None

    def write(self, row: Row) -> None:
        """Appends a row (arrays become lists); on disk when it returns."""
        row = {name: _plain(value) for name, value in row.items()}
        self.rows.append(row)
        if self._file is not None:
            self._file.write(_line(row))
            self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                for tag, scalar in _scalars(name, value).items():
                    self._events.add_scalar(tag, scalar, row["step"])

    def close(self) -> None:
        """Ends both files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


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
