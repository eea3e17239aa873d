"""Findings of a study as a table, its curves as a picture. Source: ours."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from moejax.evals import figure_style as style
from moejax.theory.findings import Chart, Finding

HEAD = (
    "quantity",
    "summary",
    "claimed",
    "paper's figure",
    "measured",
    "95 % interval",
    "n",
    "replicates",
    "failed",
    "verdict",
)
COLOURS = tuple(colour for _, _, colour, _ in style.MODELS) + style.OTHER
MARKERS = tuple(marker for *_, marker in style.MODELS)


def cells(finding: Finding) -> list[str]:
    """One row, in the order of HEAD."""
    expected, (low, high) = finding.expected, finding.interval
    measured = "-" if math.isnan(finding.measured) else f"{finding.measured:.3g}"
    return [
        expected.quantity,
        expected.summary,
        f"{expected.value:g} ± {expected.tolerance:g}",
        "-" if expected.published is None else f"{expected.published:g}",
        measured,
        "-" if math.isnan(low) or math.isnan(high) else f"[{low:.3g}, {high:.3g}]",
        _range(finding.sizes),
        _range(finding.replicates),
        str(finding.failed),
        finding.verdict,
    ]


def table(findings: Sequence[Finding]) -> str:
    """Markdown, a row per finding, then why each number stands and what could not be tested."""
    rows = [list(HEAD), ["-" * len(name) for name in HEAD], *(cells(finding) for finding in findings)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"- {one.expected.quantity}: {note}" for one in findings for note in remarks(one)]
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def remarks(finding: Finding) -> list[str]:
    """What the number stands for, and why there is none."""
    return [text for text in (finding.expected.why, finding.reason) if text]


def legend_columns(chart: Chart) -> int:
    """As many as the longest label leaves room for above a picture of 9 inches."""
    longest = max((len(curve.label) for curve in chart.curves), default=0)
    return max(1, min(4, 100 // (longest + 7)))


def height(chart: Chart) -> float:
    """Inches of a picture with room for its legend."""
    rows = math.ceil(len(chart.curves) / legend_columns(chart))
    return 6.0 + 0.25 * max(rows - 2, 0)


def draw(canvas: Figure, chart: Chart, *, title: str) -> None:
    """Every curve with its band; a colour and a marker each."""
    axes = canvas.add_subplot()
    for place, curve in enumerate(chart.curves):
        colour = COLOURS[place % len(COLOURS)]
        marker = MARKERS[place % len(MARKERS)] if len(curve.x) <= 40 else None
        axes.plot(curve.x, curve.y, label=curve.label, color=colour, marker=marker, markersize=5)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    if chart.logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.set_title(title.replace("_", " "))
    if chart.curves:
        handles, labels = axes.get_legend_handles_labels()
        style.legend_above(canvas, handles, labels, columns=legend_columns(chart))


def _range(values: Sequence[int]) -> str:
    """'100 to 100000 (13)' of many, '40' of equal ones."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low:g} to {high:g} ({len(values)})"
