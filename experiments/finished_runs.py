"""Finished runs for the other scripts: load a run's model and data, evaluate it once, draw its maps."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from moejax.core.spec import build_method
from moejax.data import opening
from moejax.data.dataset import Dataset
from moejax.evals.evaluation import environment, evaluate
from moejax.evals.few_shot import FewShot
from moejax.evals.map_figures import MapSheet
from moejax.evals.map_sheets import map_sheet
from moejax.train.checkpoints import load_run


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run with its model, the parameters of one checkpoint, and its data. link: what the loss makes of logits."""

    workdir: Path
    which: str
    step: int
    config: dict[str, Any]
    model: Any
    params: Any
    state: Any
    dataset: Dataset
    link: str

    @classmethod
    def load(cls, workdir: str | Path, which: str | None = None) -> "FinishedRun":
        """which: 'best' or 'last'; None takes what the run's own test took. Raises CheckpointError, SpecError."""
        path = Path(workdir)
        which = which or _tested_with(path)
        config, params, state, step = load_run(path, which)
        task = build_method("tasks", {**config["task"], "model": config["model"]}, path="config.task")
        dataset = opening.build(config["data"], path="config.data")
        return cls(path, which, step, config, task.model, params, state, dataset, task.cross_entropy)

    def evaluate(self, split: str = "test", few_shot: FewShot | None = FewShot()) -> dict[str, Any]:  # noqa: B008
        """Evaluates and writes evaluation.json into the run's folder."""
        found = evaluate(
            self.model, self.params, self.state, self.dataset, split=split, link=self.link, few_shot=few_shot
        )
        found |= {"which": self.which, "step": self.step, "environment": environment()}
        target = self.workdir / "evaluation.json"
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(target)
        return found

    def maps(self, rows: np.ndarray) -> MapSheet | None:
        """Expert maps of test pictures; None for a model without experts."""
        name = str(self.config.get("name", "model"))
        return map_sheet(name, self.model, self.params, self.state, self.dataset, rows)

    def is_evaluated(self) -> bool:
        """True when evaluation.json is there and is not older than the run's last row."""
        found = self.workdir / "evaluation.json"
        rows = self.workdir / "metrics.jsonl"
        return found.exists() and (not rows.exists() or found.stat().st_mtime >= rows.stat().st_mtime)


def _tested_with(path: Path) -> str:
    try:
        return json.loads((path / "config.json").read_text())["train"].get("test_with", "last")
    except (OSError, ValueError, KeyError):
        return "last"
