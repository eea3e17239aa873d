"""Writes the report of a folder of runs: report.html (one file that needs nothing else) and its figures as PNG.

  python experiments/report.py --workdir demo
  python experiments/report.py --workdir runs --collect experiments/results/patchwork_long.json

--workdir is the folder above the runs of experiments/train.py, one run per model and seed; runs without an evaluation are
evaluated first. --collect writes results of classifiers as JSON instead of a report; moejax/evals/runs.py says the format.
"""

import dataclasses
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flag_errors
from absl import app, flags, logging
from finished_runs import baseline_accuracy, evaluated

from moejax.core.errors import SpecError
from moejax.evals.evaluation import environment
from moejax.evals.map_sheets import choose, samples
from moejax.evals.report import write_report
from moejax.evals.report_contents import Report
from moejax.evals.report_results import text_table
from moejax.evals.runs import Run, find_runs, read_records, write_records
from moejax.evals.score_report import task_of, text_lines, write_score_report
from moejax.train.memory import keep_freed_memory

LONG_RUNS = Path(__file__).parent / "results" / "patchwork_long.json"

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder above the runs.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report; by default WORKDIR/report.")
_RECORDS = flags.DEFINE_string("records", None, "Recorded results to draw beside the runs; 'none' for none. By default "
                               "those shipped for the same data set.")  # fmt: skip
_COLLECT = flags.DEFINE_string("collect", None, "Write the results of the runs to this JSON file and stop.")


def collect(runs: Sequence[Run], target: str) -> None:
    """Writes one record per run, dated by the run's last row."""
    records = []
    for run in runs:
        if not run.finished:
            print(f"  {run.folder}: left out, stopped at step {run.record.steps} without a test", file=sys.stderr)
            continue
        run, _ = evaluated(run)
        day = datetime.date.fromtimestamp((run.folder / "metrics.jsonl").stat().st_mtime).isoformat()
        records.append(dataclasses.replace(run.record, date=day))
    write_records(records, target)
    print(f"{len(records)} runs written to {target}")


def write_scores(folder: Path, output: Path, found: Sequence[Run], task: str) -> tuple[Path, list[str]]:
    """The report of runs without classes, and its table as text."""
    runs, title = [evaluated(run)[0] for run in found], f"Mixtures of experts: {task} on {found[0].record.dataset}"
    report = Report(runs=runs, notes=_notes(runs), environment=_environment(folder), title=title)
    return write_score_report(report, output), text_lines(runs)


def write(folder: Path, output: Path, records: str | None) -> tuple[Path, list[str]]:
    """Evaluates what is not evaluated, draws everything, and returns the page's path and its table as text."""
    found = find_runs(folder)
    if (task := task_of(found)) != "classification":
        return write_scores(folder, output, found, task)
    runs: list[Run] = []
    sheets: list[Any] = []
    dataset, rows = None, None
    for run in found:
        run, loaded = evaluated(run)
        runs.append(run)
        if loaded is None:
            continue
        if dataset is None:
            dataset = loaded.dataset
            rows = choose(dataset, "test")
        if run.model not in {sheet.model for sheet in sheets}:
            sheets += [sheet for sheet in [loaded.maps(rows)] if sheet is not None]
    report = Report(
        runs=runs,
        records=_records(records, runs),
        milliseconds=_read(folder / "timing.json").get("milliseconds", {}),
        sheets=sheets,
        notes=_notes(runs),
        environment=_environment(folder),
        **_of_dataset(dataset, folder),
    )
    print("  drawing figures", flush=True)
    return write_report(report, output), text_table(report)


def _notes(runs: Sequence[Run]) -> list[str]:
    return [remark for run in runs for remark in run.remarks]


def _of_dataset(dataset: Any, folder: Path) -> dict[str, Any]:
    if dataset is None:
        return {}
    info = dataset.info
    return {
        "samples": samples(dataset),
        "domains": info.domain_names if len(info.domain_names) > 1 else (),
        "class_domains": info.class_domains,
        "baseline": baseline_accuracy(dataset, folder),
    }


def _records(path: str | None, runs: Sequence[Run]) -> list[Any]:
    if path == "none":
        return []
    if path is None:
        datasets = {run.record.dataset for run in runs}
        return [r for r in read_records(LONG_RUNS) if r.dataset in datasets] if LONG_RUNS.exists() else []
    return read_records(path)


def _environment(folder: Path) -> dict[str, str]:
    facts = environment()
    timing = _read(folder / "timing.json")
    entries = {"Report written": facts["date"], "Device": facts["device"]}
    entries["Versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    if "how" in timing:
        entries["Step time"] = timing["how"]
    return entries


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    folder = Path(str(_WORKDIR.value))
    try:
        if _COLLECT.value:
            collect(find_runs(folder), _COLLECT.value)
            return
        path, lines = write(folder, Path(_OUTPUT.value or folder / "report"), _RECORDS.value)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(lines))
    print(f"report: {path}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=flag_errors.parse)
