"""The report's numbers where pictures are classified: head, cards, and tables of accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moejax.evals import figure_style as style
from moejax.evals import page
from moejax.evals.comparison import Mean, accuracies, by_model, verdict
from moejax.evals.report_contents import Report, Section
from moejax.evals.run_groups import looks
from moejax.evals.run_sections import general_header, single_vision_task
from moejax.evals.runs import Number, Record

ALIKE = 0.05  # spread of the FLOPs of models that count as equal in activated compute


def header(report: Report) -> list[str]:
    """Title, who wins, and a card per model."""
    if single_vision_task(report) is None:
        return general_header(report)
    records = [run.record for run in report.runs]
    means = accuracies(records)
    labels = {model: style.model_label(model) for model in by_model(records)}
    dataset = records[0].dataset or "images"
    blocks = [f"<h1>{page.escape(report.title)}</h1>"]
    flops = [record.flops_per_example for record in records]
    known = [value for value in flops if value]
    equal = len(known) == len(flops) and max(known) <= (1 + ALIKE) * min(known)
    count = f"{len(labels)} vision model{'s' * (len(labels) != 1)}{' at equal activated compute' * equal}"
    blocks.append(page.paragraph(f"{count}, trained on {dataset}.", "muted"))
    blocks.append(page.paragraph(verdict(means, labels, num_test=report.num_test), "lead"))
    if line := _against_baseline(means, report.baseline, labels):
        blocks.append(page.paragraph(line, "lead"))
    items = []
    for model, mean in means.items():
        record = by_model(records)[model][0]
        parts = [f"{style.compact(record.total_params)} parameters"] if record.total_params else []
        if model in report.milliseconds:
            parts.append(f"{report.milliseconds[model]:.0f} ms a step")
        error = "" if mean.standard_error is None else f"± {100 * mean.standard_error:.1f} "
        items.append(
            page.card(
                labels[model],
                f"{100 * mean.mean:.1f}",
                f"{error}%",
                " · ".join(parts),
                colour=style.model_colour(model),
            )
        )
    return [*blocks, page.cards(items)] if items else blocks


def results(report: Report, folder: Path) -> Section | None:
    """Accuracy by domain of the runs and of recorded longer ones; None where it would say no more than the numbers below."""
    records = [run.record for run in report.runs if run.record.test_accuracy]
    if not (report.records or report.baseline or report.milliseconds or any(r.total_params for r in records)):
        return None  # all is in the table of every metric
    title = "Results"
    blocks = [
        page.section(
            "results", title, "Test accuracy in per cent; ± is the standard error over seeds. Bold: highest mean."
        )
    ]
    blocks.append(_accuracy_table(report, records))
    if report.records:
        recorded = sorted(report.records, key=lambda r: (style.model_order(r.model), r.seed))
        minutes = np.mean([r.seconds for r in recorded]) / 60
        labels = {r.model: style.model_label(r.model) for r in recorded}
        tests = [r.num_test for r in recorded if r.num_test]
        text = f"Recorded longer runs, {minutes:.0f} minutes a model on average. "
        blocks += [
            "<h3>Longer runs</h3>",
            page.paragraph(text + verdict(accuracies(recorded), labels, num_test=min(tests, default=None))),
        ]
        blocks.append(_accuracy_table(report, recorded))
    blocks += [page.paragraph(note, "muted") for note in report.notes]
    return "results", title, blocks


def text_table(report: Report) -> list[str]:
    """Test accuracies as lines of text, and who wins."""
    with style.looking(looks(report.runs)):
        return _text_table(report)


def _text_table(report: Report) -> list[str]:
    columns = ["all", *report.domains]
    records = [run.record for run in report.runs]
    means = {column: accuracies(records, column) for column in columns}
    width = max([22, *(len(style.model_label(model)) + 2 for model in means["all"])])
    lines = ["", f"{'test accuracy (%)':{width}}" + "".join(f"{column:>14}" for column in columns)]
    for model in sorted(means["all"], key=style.model_order):
        cells = [percent(means[column].get(model)) for column in columns]
        lines.append(f"{style.model_label(model):{width}}" + "".join(f"{cell:>14}" for cell in cells))
    if report.baseline:
        cells = [f"{100 * report.baseline[c]:.1f}" if c in report.baseline else "-" for c in columns]
        lines.append(f"{'logistic regression':{width}}" + "".join(f"{cell:>14}" for cell in cells))
    labels = {record.model: style.model_label(record.model) for record in records}
    return [*lines, "", verdict(means["all"], labels, num_test=report.num_test), ""]


def _accuracy_table(report: Report, records: Sequence[Record]) -> str:
    domains = [d for d in report.domains if any(d in r.test_accuracy for r in records)]
    if not domains:
        domains = sorted({d for r in records for d in r.test_accuracy} - {"all"})
    columns = ["all", *domains]
    means = {d: accuracies(records, d) for d in columns}
    head = ["", "seeds", *("overall" if d == "all" else d for d in columns)]
    head += ["parameters", "activated", "FLOPs / picture", "ms / step"]
    rows = []
    for model, group in by_model(records).items():
        record = group[0]
        scores = [means[d].get(model) for d in columns]
        best = [
            m is not None and m.mean == max(x.mean for x in means[d].values())
            for d, m in zip(columns, scores, strict=True)
        ]
        counted = sum(bool(r.test_accuracy) for r in group)
        seeds = str(counted) if counted == len(group) else f"{counted} of {len(group)}"
        cells = [style.model_label(model), seeds, *(percent(m) for m in scores)]
        cells += [_size(record.total_params), _size(record.activated_params), _size(record.flops_per_example)]
        cells.append(f"{report.milliseconds[model]:.0f}" if model in report.milliseconds else "–")
        rows.append(page.row(cells, colour=style.model_colour(model), best=[False, False, *best]))
    if report.baseline:
        shown = [f"{100 * report.baseline[d]:.1f}" if d in report.baseline else "–" for d in columns]
        rows.append(page.row(["Logistic regression", "", *shown, "", "", "", ""], kind="baseline"))
    return page.table(head, rows)


def _against_baseline(means: Mapping[str, Mean], baseline: Mapping[str, Number], labels: Mapping[str, str]) -> str:
    if "all" not in baseline or not means:
        return ""
    value = baseline["all"]
    below = [labels[m] for m, mean in means.items() if mean.mean <= value]
    gaps = [100 * (mean.mean - value) for mean in means.values()]
    if not below:
        return f"Every model is above logistic regression ({100 * value:.1f} %), by {min(gaps):.1f} to {max(gaps):.1f} points."
    return f"Not above logistic regression ({100 * value:.1f} %): {', '.join(below)}."


def percent(mean: Mean | None) -> str:
    """'79.5 ± 0.3', a dash for None."""
    if mean is None:
        return "–"
    return f"{100 * mean.mean:.1f}" + ("" if mean.standard_error is None else f" ± {100 * mean.standard_error:.1f}")


def _size(value: int | None) -> str:
    return "–" if value is None else style.compact(value)
