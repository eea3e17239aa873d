"""What is seen of a run while it trains: a table that grows by a line per row of metrics, above a bar of the steps.

On a terminal the newest lines stand above the bar; elsewhere (logs, pods, notebooks) each row is one line with its names. Source: ours.
"""

import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm

from moejax.train.router_health import Health, router_health

HEAD_EVERY = 20  # lines; so that a screen always shows the names of its columns
SPEED = "_per_second"
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value as text under its name. width: of its column. least: columns of less importance go first where it is narrow."""

    name: str
    text: str
    width: int
    importance: int


class LiveTable:
    """The view of one run of `steps` steps, of which `step` are done.

    metric: the row entry that the run is judged by (train.best_metric). shown: False prints nothing and asks for nothing.
    stream: a text file, by default stdout as it is now. clock: seconds.
    """

    def __init__(
        self,
        *,
        steps: int,
        step: int,
        metric: str,
        shown: bool = True,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps, self._metric, self._clock = steps, metric, clock
        self._stream = sys.stdout if stream is None else stream
        self._shown = shown
        terminal = shown and self._stream.isatty()
        self._bar = (
            tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True, file=self._stream) if terminal else None
        )
        self._health: Health | None = None
        self._since, self._rows = (step, clock()), 0
        self._valid = ""
        self._lines = 0
        self._columns: tuple[str, ...] = ()

    def advance(self) -> None:
        """One more step was handed to the device. Waits for nothing."""
        if self._bar is not None:
            self._bar.update(1)

    def health(self, metrics: Mapping[str, Any]) -> None:
        """Routers' metrics of the newest step; to be called where the loop waits for the device in any case."""
        if self._shown:
            routed = {name: value for name, value in metrics.items() if name.startswith("block_")}
            self._health = router_health(jax.device_get(routed))

    def show(self, row: Row) -> None:
        """One row of metrics.jsonl."""
        if not self._shown:
            return
        cells = self._cells(row)
        if self._bar is None:
            self._stream.write(_plain(cells) + "\n")
            self._stream.flush()
            return
        for line in self._table_lines(cells):
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _cells(self, row: Row) -> list[Cell]:
        step = int(row["step"])
        cells = [Cell("step", f"{step}/{self._steps}", 2 * len(str(self._steps)) + 1, 0)]
        cells.append(Cell("loss", number("loss", row.get("train/loss")), 8, 0))
        if headline := _headline(self._metric, row):
            cells.append(Cell(headline, number(headline, row[f"train/{headline}"]), len(headline), 3))
        self._valid = _valid_name(self._metric, row) or self._valid or self._metric
        cells.append(Cell(self._valid, number(self._valid, row.get(self._valid)), len(self._valid), 1))
        rate = row.get("train/learning_rate")
        cells.append(Cell("rate", "-" if rate is None else f"{rate:.1e}", 7, 5))
        for name, value in row.items():
            if name.startswith("train/") and name.endswith(SPEED):
                unit = f"{name[len('train/') : -len(SPEED)]}/s"
                cells.append(Cell(unit, f"{value:,.0f}", 8, 4))
        cells += _routing(self._health)
        cells.append(Cell("left", self._left(step), 8, 8))
        return cells

    def _left(self, step: int) -> str:
        """Time to the last step at the pace since the first row, which leaves compilation out; evaluations are in it."""
        now, (done, then) = self._clock(), self._since
        if self._rows == 0:
            self._since = (step, now)
        self._rows += 1
        if step <= done:
            return "-"
        return tqdm.format_interval((self._steps - step) * (now - then) / (step - done))

    def _table_lines(self, cells: list[Cell]) -> list[str]:
        """The line of a row, with a head above it where one is due."""
        columns = shutil.get_terminal_size((100, 24)).columns - 1
        kept = _fitting(cells, columns)
        names = tuple(cell.name for cell in kept)
        lines = []
        if names != self._columns or self._lines % HEAD_EVERY == 0:
            lines.append("  ".join(f"{cell.name:>{_width(cell)}}" for cell in kept))
            self._columns, self._lines = names, 0
        self._lines += 1
        return [*lines, "  ".join(f"{cell.text:>{_width(cell)}}" for cell in kept)]


def number(name: str, value: Any) -> str:
    """'61.2%' for an accuracy, else four digits; a dash for nothing."""
    if value is None:
        return "-"
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:.1%}" if name.rpartition("/")[2] == "accuracy" else f"{value:.4g}"


def _headline(metric: str, row: Row) -> str | None:
    """What the task says of its training batches beside the loss, by the name of what the run is judged by."""
    names = (metric.partition("/")[2], "accuracy")
    return next((name for name in names if name != "loss" and f"train/{name}" in row), None)


def _valid_name(metric: str, row: Row) -> str | None:
    if metric in row:
        return metric
    return next((name for name in row if name.startswith("valid/")), None)


def _routing(health: Health | None) -> list[Cell]:
    if health is None:
        return []
    cells = []
    if health.dropped is not None:
        cells.append(Cell("dropped", f"{health.dropped[1]:.1%}", 7, 6))
    if health.busiest is not None:
        cells.append(Cell("busiest", f"x{health.busiest[1]:.2f} @{health.busiest[0]}", 9, 6))
    if health.entropy is not None:
        cells.append(Cell("entropy", f"{health.entropy[1]:.2f} @{health.entropy[0]}", 8, 7))
    return cells


def _plain(cells: list[Cell]) -> str:
    return "  ".join(f"{cell.name} {cell.text}" for cell in cells if cell.text != "-")


def _width(cell: Cell) -> int:
    return max(cell.width, len(cell.name), len(cell.text))


def _fitting(cells: list[Cell], columns: int) -> list[Cell]:
    kept = list(cells)
    while len(kept) > 1 and sum(_width(cell) + 2 for cell in kept) - 2 > columns:
        kept.remove(max(kept, key=lambda cell: cell.importance))
    return kept
