"""The report: from finished runs to PNGs and one self-contained HTML page."""

import dataclasses
from pathlib import Path

from moejax.core.errors import SpecError
from moejax.evals import figure_style as style
from moejax.evals import page
from moejax.evals import report_results as numbers
from moejax.evals import report_sections as figures
from moejax.evals.report_contents import Report

SECTIONS = (
    numbers.results,
    figures.learning,
    figures.cost,
    figures.maps,
    figures.preferences,
    figures.routing,
    figures.calibration,
    figures.data,
    numbers.what_was_run,
)


def write_report(report: Report, folder: str | Path) -> Path:
    """Writes the PNGs and report.html into `folder`; returns the page's path. Raises SpecError without runs.

    Source: ours.
    """
    if not report.runs:
        raise SpecError("a report needs at least one finished run.")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    runs = sorted(report.runs, key=lambda run: (style.model_order(run.model), run.record.seed))
    report = dataclasses.replace(report, runs=runs)
    sections = [part for build in SECTIONS if (part := build(report, target))]
    links = page.navigation([(anchor, title) for anchor, title, _ in sections])
    body = [*numbers.header(report), links, *(block for _, _, blocks in sections for block in blocks)]
    path = target / "report.html"
    path.write_text(page.page(report.title, body))
    return path
