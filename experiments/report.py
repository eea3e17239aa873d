"""Compares any runs on one page: report.html (one file that needs nothing else) and its figures as PNG.

  python experiments/report.py runs/dense_0 runs/dense_1 runs/vmoe_0 --output comparison
  python experiments/report.py --workdir demo
  python experiments/report.py --workdir runs --collect experiments/results/patchwork_long.json

Runs are folders of experiments/train.py or compress.py, or folders above them, of one task or several; they may be unfinished.
Those that differ only in the seed count as one model. Finished classifiers without an evaluation are evaluated first. --collect
writes the results of the finished runs below --workdir as JSON; moejax/evals/runs.py says the format. Exit code 2: no run at all.
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
from finished_runs import evaluated
from run_pictures import evaluated_or_noted, pictures

from moejax.core.errors import SpecError
from moejax.evals.evaluation import environment
from moejax.evals.report import write_report
from moejax.evals.report_contents import Report
from moejax.evals.report_results import text_table
from moejax.evals.run_folders import Broken, collect_runs
from moejax.evals.run_groups import grouped
from moejax.evals.runs import Run, find_runs, read_records, write_records
from moejax.train.memory import keep_freed_memory

LONG_RUNS = Path(__file__).parent / "results" / "patchwork_long.json"
TITLE = "Runs compared"

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder above runs, beside those that are named.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report; by default WORKDIR/report, or report.")
_JSON = flags.DEFINE_boolean("json", False, "Write all numbers as report.json beside the page.")
_EVALUATE = flags.DEFINE_boolean(
    "evaluate", True, "Evaluate finished classifiers that are not evaluated, and draw maps."
)
_RECORDS = flags.DEFINE_string("records", None, "Recorded results to draw beside the runs; 'none' for none. By default those "
                               "shipped for the same data set, where --workdir is a demo.")  # fmt: skip
_COLLECT = flags.DEFINE_string(
    "collect", None, "Write the results of the runs below --workdir to this JSON file and stop."
)


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


def write(folders: Sequence[Path], demo: Path | None, output: Path, records: str | None) -> tuple[Path, Report]:
    """Evaluates what is not evaluated, draws everything, and returns the page's path and what it was made of.

    demo: a folder with the times of steps of its models. Raises SpecError when there is no run.
    """
    found, broken = collect_runs(folders)
    notes: list[str] = []
    runs, loaded = [], []
    for run in found:
        run, model = evaluated_or_noted(run, notes) if _EVALUATE.value else (run, None)
        runs.append(run)
        loaded.append(model)
    runs = grouped(runs)
    report = Report(
        runs=runs,
        broken=broken,
        records=_records(records, runs, demo),
        milliseconds=_read(demo / "timing.json").get("milliseconds", {}) if demo else {},
        notes=notes,
        environment=_environment(demo),
        **pictures(dict(zip((run.model for run in reversed(runs)), reversed(loaded), strict=True)), demo),
    )
    report = report if demo else dataclasses.replace(report, title=TITLE)
    print("  drawing figures", flush=True)
    return write_report(report, output, write_json=_JSON.value), report


def _records(path: str | None, runs: Sequence[Run], demo: Path | None) -> list[Any]:
    if path == "none" or (path is None and demo is None):
        return []
    if path is None:
        datasets = {run.record.dataset for run in runs}
        return [r for r in read_records(LONG_RUNS) if r.dataset in datasets] if LONG_RUNS.exists() else []
    return read_records(path)


def _environment(demo: Path | None) -> dict[str, str]:
    facts = environment()
    timing = _read(demo / "timing.json") if demo else {}
    entries = {"Report written": facts["date"], "On": facts["device"]}
    entries["By"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    if "how" in timing:
        entries["Step time"] = timing["how"]
    return entries


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else None
    folders = [*([workdir] if workdir else []), *map(Path, argv[1:])]
    try:
        if not folders or (_COLLECT.value and workdir is None):
            raise SpecError("which runs? Name their folders, or give --workdir, the folder above them.")
        if _COLLECT.value:
            collect(find_runs(str(workdir)), _COLLECT.value)
            return
        demo = workdir if workdir and (workdir / "timing.json").exists() else None
        path, report = write(folders, demo, Path(_OUTPUT.value or (workdir or Path()) / "report"), _RECORDS.value)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if any(run.record.test_accuracy for run in report.runs):
        print("\n".join(text_table(report)))
    _say(report.broken, report.notes)
    print(f"report: {path}")


def _say(broken: Sequence[Broken], notes: Sequence[str]) -> None:
    for line in (*(f"left out: {one.folder}: {one.reason}" for one in broken), *notes):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse_with_names)
