"""What a report shows of the models themselves: evaluations that are missing, expert maps, and the data."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finished_runs import FinishedRun, baseline_accuracy, evaluated

from moejax.core.errors import SpecError
from moejax.evals.map_sheets import choose, samples
from moejax.evals.run_folders import FINISHED, status
from moejax.evals.run_groups import task_of
from moejax.evals.runs import Run


def evaluated_or_noted(run: Run, notes: list[str]) -> tuple[Run, FinishedRun | None]:
    """The run with its evaluation and its model where it is a finished classifier; why not, in `notes`."""
    if status(run).state != FINISHED or task_of(run) != "classification":
        return run, None
    try:
        return evaluated(run)
    except (SpecError, OSError, ValueError) as error:
        notes.append(f"{run.folder} is not evaluated: {error}")
        return run, None


def pictures(models: Mapping[str, FinishedRun | None], demo: Path | None) -> dict[str, Any]:
    """Expert maps of the models on pictures of the first one's data set, and what the report says of these data."""
    loaded = {name: model for name, model in models.items() if model is not None}
    if not loaded:
        return {}
    dataset = loaded[min(loaded)].dataset
    rows, sheets = choose(dataset, "test"), []
    for name, model in sorted(loaded.items()):
        if model.dataset.info == dataset.info and (sheet := model.maps(rows)) is not None:
            sheets.append(dataclasses.replace(sheet, model=name))
    return {"sheets": sheets} | _of_dataset(dataset, demo)


def _of_dataset(dataset: Any, demo: Path | None) -> dict[str, Any]:
    info = dataset.info
    many = len(info.domain_names) > 1
    return {
        "samples": samples(dataset),
        "domains": info.domain_names if many else (),
        "class_domains": info.class_domains,
        "baseline": baseline_accuracy(dataset, demo) if demo else {},
    }
