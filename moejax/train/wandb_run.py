"""A run's rows in Weights & Biases, through its own library, which is imported only where a run asks for it.

Source: ours, over wandb's `init(id=..., resume="allow")`, `define_metric` and `log`.
"""

import dataclasses
import importlib
import importlib.util
import json
import logging
import pathlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from moejax.core.errors import SpecError
from moejax.train.disk import write_whole

logger = logging.getLogger(__name__)
FILE = "wandb.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wandb:
    """project, entity (a user or team; None: the default one), name (None: the workdir's), group, tags: as W&B shows them.

    mode: 'environment' leaves it to WANDB_MODE, which is 'online' unless set; 'offline' writes into the workdir, for `wandb sync`.
    """

    project: str
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["environment", "online", "offline", "disabled"] = "environment"

    def __post_init__(self) -> None:
        if not self.project or set(self.project) & set("/\\#?%:"):
            raise SpecError(f"train.wandb.project={self.project!r} must be a name without any of / \\ # ? % :")


def check_installed(spec: Wandb | None) -> None:
    """Raises SpecError when a run asks for W&B and its library is not there."""
    if spec is not None and importlib.util.find_spec("wandb") is None:
        raise SpecError(
            "train.wandb needs the package wandb: pip install 'moejax[wandb]'. Without it leave train.wandb=None: "
            "metrics.jsonl and TensorBoard's events are written in any case."
        )


class WandbRun:
    """Sends rows to the W&B run of a workdir, which is the same one however often training is started there.

    workdir/wandb.json keeps its id and the place of the last row sent. Rows up to it are not sent again: a resumed run repeats them.
    rows: those of metrics.jsonl so far; what W&B has not seen of them is sent first.
    Raises SpecError when the library is missing or W&B does not start, DiskError when wandb.json cannot be written.
    """

    def __init__(
        self, spec: Wandb, workdir: pathlib.Path, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        check_installed(spec)
        self._wandb: Any = importlib.import_module("wandb")
        self._path = workdir / FILE
        self._kept = _read(self._path, spec)
        try:
            self._run = self._wandb.init(
                project=spec.project,
                entity=spec.entity,
                name=spec.name or workdir.name,
                group=spec.group,
                tags=list(spec.tags) or None,
                mode=None if spec.mode == "environment" else spec.mode,
                id=self._kept["id"],
                resume="allow",
                dir=str(workdir),
                config=json.loads(json.dumps(config)),
                allow_val_change=True,
            )
        except self._wandb.errors.Error as error:
            raise SpecError(
                f"train.wandb: W&B did not start ({' '.join(str(error).split())}). Log in with `wandb login`, write to the disk "
                "alone with train.wandb.mode='offline', or set train.wandb=None."
            ) from error
        # Steps of ours may come again after a kill; W&B's own counter must never go back.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._save()
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Sends one row: numbers under their names, loads of experts as histograms with a bar per expert."""
        place = _place(row)
        if place <= self._kept["sent"]:
            return
        values = {name: found for name, value in row.items() if (found := self._sendable(name, value)) is not None}
        try:
            self._run.log(values)
        except self._wandb.errors.Error as error:
            logger.warning("the row of step %s was not sent to W&B: %s", row["step"], error)
            return
        self._kept["sent"] = place
        self._save()

    def close(self) -> None:
        """Ends the W&B run: as failed while an exception passes through, else as finished."""
        self._run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)

    def _sendable(self, name: str, value: Any) -> Any:
        if isinstance(value, (bool, int, float, str)):
            return value
        array = np.asarray(value) if isinstance(value, (list, np.ndarray)) else None
        if array is None or array.ndim != 1 or not np.issubdtype(array.dtype, np.number):
            return None
        if name.endswith("load"):
            return self._wandb.Histogram(np_histogram=(array.tolist(), list(range(len(array) + 1))))
        return array.tolist()

    def _save(self) -> None:
        write_whole(self._path, json.dumps(self._kept) + "\n")


def _read(path: pathlib.Path, spec: Wandb) -> dict[str, Any]:
    """What wandb.json says of this project; a new id where it says nothing or something else."""
    try:
        kept = json.loads(path.read_text())
        if kept["project"] == spec.project and kept["entity"] == spec.entity:
            return {**kept, "sent": [int(part) for part in kept["sent"]], "id": str(kept["id"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"id": uuid.uuid4().hex[:12], "project": spec.project, "entity": spec.entity, "sent": [-1, 0]}


def _place(row: Mapping[str, Any]) -> list[int]:
    """Rows grow in it: a step's skipped batch comes before its means, the test at the end after the last of them."""
    kind = 0 if "skipped" in row else 2 if any(name.startswith("test/") for name in row) else 1
    return [int(row["step"]), kind]
