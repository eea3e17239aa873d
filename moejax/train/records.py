"""What a run leaves to read: `metrics.jsonl`, one JSON object per line, TensorBoard events, and rows for W&B where asked for."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.train.disk import write_whole, writing
from moejax.train.events import Events
from moejax.train.spec import flatten
from moejax.train.wandb_run import Wandb, WandbRun

Row = dict[str, Any]
SETTINGS = ("seed", "model", "task", "data", "optimizer")  # parts of a config that a run is compared by
TRAIN_SETTINGS = ("steps", "accumulate_steps", "ema_decay")


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
    config, metric: what TensorBoard and W&B say of the run: how it was set, and the row entry by which it is judged.
    wandb: None sends nothing. Raises SpecError where W&B does not start.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        step: int,
        tensorboard: bool = True,
        writes: bool = True,
        unlogged: bool = False,
        config: Mapping[str, Any] | None = None,
        metric: str | None = None,
        wandb: Wandb | None = None,
    ) -> None:
        self.path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_rows(self.path) if row["step"] <= step and not is_final(row)]
        if unlogged:
            self.rows = [row for row in self.rows if row["step"] < step or "skipped" in row]
        self._file, self._events, self._wandb = None, None, None
        if not writes:
            return
        write_whole(self.path, "".join(_line(row) for row in self.rows))
        with writing(self.path):
            self._file = self.path.open("a")
        if tensorboard:
            self.events = workdir / "tensorboard"
            with writing(self.events):
                self._events = Events(self.events, purge=step + 1)
                if config:
                    _describe(self._events, step, config, metric)
        if wandb is not None:
            self._wandb = WandbRun(wandb, workdir, config or {}, self.rows)

    def write(self, row: Row) -> None:
        """Appends a row (arrays become lists); on disk when it returns."""
        row = {name: _plain(value) for name, value in row.items()}
        self.rows.append(row)
        if self._file is not None:
            with writing(self.path):
                self._file.write(_line(row))
                self._file.flush()
        if self._events is not None:
            with writing(self.events):
                self._add_events(self._events, row)
        if self._wandb is not None:
            self._wandb.write(row)

    @staticmethod
    def _add_events(events: Events, row: Row) -> None:
        scalars: dict[str, float] = {}
        for name, value in row.items():
            scalars |= _scalars(name, value)
            if isinstance(value, list) and name.endswith("load"):
                events.shares(row["step"], name, value)
        if scalars:
            events.scalars(row["step"], scalars)

    def close(self) -> None:
        """Ends all; what a full disk did not take of the files is lost, and was said before."""
        for file in (self._file, self._events, self._wandb):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()


def is_final(row: Mapping[str, Any]) -> bool:
    """True for the row that ends a run: it has a test result."""
    return any(name.startswith("test/") for name in row)


def settings(config: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    """{'optimizer.learning_rate': 0.002} for the entries of a config that make a run what it is, lists as text. Source: ours."""
    kept = {part: config[part] for part in SETTINGS if part in config}
    train = config.get("train", {})
    kept["train"] = {name: train[name] for name in TRAIN_SETTINGS if name in train}
    flat = flatten(kept)
    return {n: v if isinstance(v, (str, bool, int, float)) else json.dumps(v) for n, v in flat.items() if v is not None}


def _describe(events: Events, step: int, config: Mapping[str, Any], metric: str | None) -> None:
    events.text(step, "config", f"```json\n{json.dumps(config, indent=2)}\n```")
    judged = () if metric is None else (metric, f"test/{metric.partition('/')[2]}")
    events.settings(settings(config), ("train/loss", *judged))


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
