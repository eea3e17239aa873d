"""The report: from any runs to PNGs, one self-contained HTML page, and its numbers as JSON."""

import dataclasses
import json
from pathlib import Path

from moejax.core.errors import SpecError
from moejax.evals import figure_style as style
from moejax.evals import page
from moejax.evals import report_results as numbers
from moejax.evals import report_sections as figures
from moejax.evals import run_sections as every
from moejax.evals.report_contents import Report
from moejax.evals.run_groups import looks
from moejax.evals.run_summary import summarise_runs

SECTIONS = (
    every.broken,
    numbers.results,
    every.metrics,
    every.differing,
    figures.learning,
    figures.cost,
    figures.maps,
    figures.preferences,
    figures.routing,
    figures.calibration,
    figures.data,
    every.repeat,
)


def write_report(report: Report, folder: str | Path, *, write_json: bool = False) -> Path:
    """Writes the PNGs and report.html (and report.json) into `folder`; returns the page's path. Raises SpecError without runs.

    Source: ours.
    """
    if not report.runs:
        reasons = "".join(f" {one.folder}: {one.reason}." for one in report.broken)
        raise SpecError(f"a report needs at least one run.{reasons}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with style.looking(looks(report.runs)):
        runs = sorted(report.runs, key=lambda run: (style.model_order(run.model), run.record.seed))
        report = dataclasses.replace(report, runs=runs)
        sections = [part for build in SECTIONS if (part := build(report, target))]
        links = page.navigation([(anchor, title) for anchor, title, _ in sections])
        body = [*numbers.header(report), links, *(block for _, _, blocks in sections for block in blocks)]
    path = target / "report.html"
    _replace(path, page.page(report.title, body))
    if write_json:
        _replace(target / "report.json", json.dumps(summarise_runs(report), indent=1, allow_nan=False) + "\n")
    return path


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
