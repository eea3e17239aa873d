"""The report's numbers: head, cards, tables of accuracy, and what was run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moejax.evals import figure_style as style
from moejax.evals import page
from moejax.evals.comparison import Mean, accuracies, by_model, verdict
from moejax.evals.report_contents import Report, Section
from moejax.evals.runs import Number, Record


def header(report: Report) -> list[str]:
    """Title, who wins, and a card per model."""
    records = [run.record for run in report.runs]
    means = accuracies(records)
    labels = {model: style.model_label(model) for model in by_model(records)}
    dataset = records[0].dataset or "images"
    blocks = [f"<h1>{page.escape(report.title)}</h1>"]
    blocks.append(
        page.paragraph(f"{len(labels)} vision models at equal activated compute, trained on {dataset}.", "muted")
    )
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


def results(report: Report, folder: Path) -> Section:
    """Accuracy by domain of the runs and of recorded longer ones."""
    records = [run.record for run in report.runs]
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


def what_was_run(report: Report, folder: Path) -> Section:
    """Seeds, steps, minutes, environment and configs."""
    title = "What was run"
    rows = []
    for run in report.runs:
        record = run.record
        rows.append(
            page.row(
                [
                    style.model_label(record.model),
                    str(record.seed),
                    f"{record.steps:,}",
                    f"{record.seconds / 60:.1f}",
                    record.config or str(run.folder or ""),
                ],
                colour=style.model_colour(record.model),
            )
        )
    blocks = [page.section("run", title), page.table(["", "seed", "steps", "minutes", "config or folder"], rows)]
    blocks.append(page.facts(report.environment))
    if commands := [run.command for run in report.runs if run.command]:
        blocks.append(page.folded("Commands that repeat these runs", "\n\n".join(commands)))
    for model, run in report.first_runs.items():
        blocks.append(page.folded(f"Configuration of {style.model_label(model)}", json.dumps(run.config, indent=1)))
    return "run", title, blocks


def text_table(report: Report) -> list[str]:
    """Test accuracies as lines of text, and who wins."""
    columns = ["all", *report.domains]
    records = [run.record for run in report.runs]
    means = {column: accuracies(records, column) for column in columns}
    lines = ["", f"{'test accuracy (%)':22}" + "".join(f"{column:>14}" for column in columns)]
    for model in sorted(means["all"], key=style.model_order):
        cells = [percent(means[column].get(model)) for column in columns]
        lines.append(f"{style.model_label(model):22}" + "".join(f"{cell:>14}" for cell in cells))
    if report.baseline:
        cells = [f"{100 * report.baseline[c]:.1f}" if c in report.baseline else "-" for c in columns]
        lines.append(f"{'logistic regression':22}" + "".join(f"{cell:>14}" for cell in cells))
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
        cells = [style.model_label(model), str(len(group)), *(percent(m) for m in scores)]
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
