"""All studies on one page: what was claimed, how it was measured, what came out, and the verdict. Source: ours."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from moejax.core.errors import SpecError
from moejax.evals import page, study_tables
from moejax.evals.study_runs import StudyRun

TITLE = "How fast gates and experts are estimated"
COLOURS = {
    "confirmed": "#009e73",
    "confirmed with the corrected protocol": "#56b4e9",
    "artefact": "#d55e00",
    "not confirmed": "#cc79a7",
    "not testable": "#6b7785",
}
LEAD = (
    "Claims about the estimation of mixtures of experts, each beside what was measured here. A verdict says whether the measured "
    "number lies within the tolerance of the claimed one; intervals hold 95 % of resampled replicates."
)


def write_study_report(runs: Sequence[StudyRun], path: str | Path, *, missing: Mapping[str, str] | None = None) -> Path:
    """One HTML page with its pictures inside. missing: studies that did not finish, and why. Raises SpecError without any run."""
    if not runs:
        raise SpecError("a report needs at least one finished study.")
    verdicts = Counter(str(finding.verdict) for run in runs for finding in run.findings)
    counted = [
        page.card(verdict, str(verdicts[verdict]), "findings", "", colour=COLOURS[verdict]) for verdict in COLOURS
    ]
    body = [
        f"<h1>{page.escape(TITLE)}</h1>",
        page.paragraph(LEAD, "lead"),
        page.cards(counted),
        page.navigation([(run.name, _title(run.name)) for run in runs]),
        *[page.paragraph(f"{name} did not finish: {why}") for name, why in (missing or {}).items()],
    ]
    for run in runs:
        body += _section(run)
    body += [page.section("times", "Times"), _times(runs)]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page.page(TITLE, body))
    partial.replace(path)
    return path


def _section(run: StudyRun) -> list[str]:
    rows = [page.row(study_tables.cells(one), colour=COLOURS[one.verdict]) for one in run.findings]
    notes = [
        f"<li>{page.escape(one.expected.quantity)}: {page.escape(note)}</li>"
        for one in run.findings
        for note in study_tables.remarks(one)
    ]
    return [
        page.section(run.name, _title(run.name), run.claim),
        page.paragraph(run.protocol, "muted"),
        page.table(study_tables.HEAD, rows),
        *([f'<ul class="small">{"".join(notes)}</ul>'] if notes else []),
        page.picture(run.chart, f"{_title(run.name)}.", alt=f"curves of {_title(run.name)}"),
        page.folded("command and config", f"{run.command}\n\nseed {run.seed}; {run.seconds:.1f} s\n{dict(run.config)}"),
    ]


def _times(runs: Sequence[StudyRun]) -> str:
    total = sum(run.seconds for run in runs)
    rows = [page.row([_title(run.name), f"{run.seconds:.1f}"]) for run in runs]
    return page.table(["study", "seconds"], [*rows, page.row(["all, one after the other", f"{total:.1f}"])])


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
