"""Finished runs for the other scripts: load a run's model and data, evaluate it once, draw its maps."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from moejax.core.errors import SpecError
from moejax.data import opening
from moejax.evals.baseline import PATCHWORK, logistic_regression
from moejax.evals.evaluation import environment, evaluate
from moejax.evals.feature_extractors import ClassifierFeatures
from moejax.evals.few_shot import FewShot
from moejax.evals.map_figures import MapSheet
from moejax.evals.map_sheets import map_sheet
from moejax.evals.runs import Run, read_run
from moejax.evals.task_evaluation import evaluate_task
from moejax.tasks.classification import Classification
from moejax.train.checkpoints import CheckpointError, load_run
from moejax.train.restructured import build_task, plain_task

PATCHWORK_TEST = 3029  # test pictures behind the recorded baseline


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run with its task, the parameters of one checkpoint, and its data."""

    workdir: Path
    which: str
    step: int
    config: dict[str, Any]
    task: Any
    params: Any
    state: Any
    dataset: Any  # a Dataset, or a TextDataset

    @classmethod
    def load(cls, workdir: str | Path, which: str | None = None) -> "FinishedRun":
        """which: 'best' or 'last'; None takes what the run's own test took. Raises CheckpointError, SpecError."""
        path = Path(workdir)
        which = which or _tested_with(path)
        config, params, state, step = load_run(path, which)
        task = build_task(config)
        dataset = opening.build(config["data"], path="config.data")
        return cls(path, which, step, config, task, params, state, dataset)

    @classmethod
    def of_task(cls, task: type, workdir: str | Path, which: str | None = None, *, flag: str) -> "FinishedRun":
        """`load`, of a run whose task is a `task`; SpecError names the flag that gave another one."""
        run = cls.load(workdir, which)
        if not isinstance(plain_task(run.task), task):
            wanted = task.__module__.rpartition(".")[2]
            raise SpecError(f"--{flag} {run.workdir}: its task is {run.config['task']['name']!r}, not {wanted!r}.")
        return run

    @property
    def model(self) -> Any:
        return self.task.model

    def evaluate(self, split: str = "test", few_shot: FewShot | None = FewShot()) -> dict[str, Any]:  # noqa: B008
        """Evaluates and writes evaluation.json into the run's folder. few_shot: of classifiers."""
        parts = self.params, self.state, self.dataset
        if isinstance(plain_task(self.task), Classification):
            found = evaluate(self.model, *parts, split=split, link=self.task.cross_entropy, few_shot=few_shot)
        else:
            found = evaluate_task(self.task, *parts, split=split)
        found |= {"which": self.which, "step": self.step, "environment": environment()}
        target = self.workdir / "evaluation.json"
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(target)
        return found

    def features(self) -> ClassifierFeatures:
        """What a classifier's head reads, for scores of generated pictures."""
        info = self.dataset.info
        return ClassifierFeatures(
            self.model, self.params, self.state, normalise=self.dataset.normalise, described=info.value_range,
            image_shape=info.image_shape, num_classes=info.num_classes,
        )  # fmt: skip

    def maps(self, rows: np.ndarray) -> MapSheet | None:
        """Expert maps of test pictures; None for a model without experts."""
        name = str(self.config.get("name", "model"))
        return map_sheet(name, self.model, self.params, self.state, self.dataset, rows)

    def is_evaluated(self) -> bool:
        """True when evaluation.json is there and is not older than the run's last row."""
        found = self.workdir / "evaluation.json"
        rows = self.workdir / "metrics.jsonl"
        return found.exists() and (not rows.exists() or found.stat().st_mtime >= rows.stat().st_mtime)


def evaluated(run: Run) -> tuple[Run, FinishedRun | None]:
    """The run with its evaluation, made now if it is missing; and the loaded model, None without a checkpoint."""
    if run.folder is None:
        return run, None
    try:
        loaded = FinishedRun.load(run.folder)
    except CheckpointError as error:
        print(f"  {run.folder}: not evaluated, {error}", file=sys.stderr)
        return run, None
    if not loaded.is_evaluated():
        print(f"  evaluating {run.folder}", flush=True)
        loaded.evaluate()
    return read_run(run.folder), loaded


def baseline_accuracy(dataset: Any, folder: Path) -> dict[str, float]:
    """Logistic regression on pooled pixels: recorded for the whole of patchwork, else fitted once per folder."""
    sizes = dataset.info.split_sizes
    if dataset.info.name == "patchwork" and sizes["test"] == PATCHWORK_TEST:
        return dict(PATCHWORK)
    path = folder / "baseline.json"
    if not path.exists():
        print("  fitting logistic regression", flush=True)
        path.write_text(json.dumps(logistic_regression(dataset, max_train=20_000)))
    return json.loads(path.read_text())


def _tested_with(path: Path) -> str:
    try:
        return json.loads((path / "config.json").read_text())["train"].get("test_with", "last")
    except (OSError, ValueError, KeyError):
        return "last"
