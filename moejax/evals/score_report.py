"""The report of runs whose task has no classes (language, diffusion): scores, curves, routing, and what was run.

Source: ours.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.ticker
from matplotlib.figure import Figure

from moejax.core.errors import SpecError
from moejax.evals import curves, page
from moejax.evals import figure_style as style
from moejax.evals.comparison import Mean, mean_over_seeds
from moejax.evals.report_contents import Report, Section
from moejax.evals.report_results import what_was_run
from moejax.evals.report_sections import routing
from moejax.evals.runs import Run, series


def task_of(runs: Sequence[Run]) -> str:
    """The task that all runs share. Raises SpecError naming the tasks where they are several."""
    names = sorted({str(run.config.get("task", {}).get("name", "classification")) for run in runs})
    if len(names) > 1:
        raise SpecError(f"the runs are of several tasks ({', '.join(names)}); give a folder with runs of one of them.")
    return names[0]


def headline(runs: Sequence[Run]) -> tuple[str, bool]:
    """The score that models are compared by, from `train.best_metric` of the first run, and whether less of it is better."""
    train = runs[0].config.get("train", {})
    name = str(train.get("best_metric", "valid/loss")).partition("/")[2]
    known = {key.partition("/")[2] for run in runs for row in run.rows for key in row if key.startswith("test/")}
    if known and name not in known:
        return "loss", True
    return name, train.get("best_mode", "min") == "min"


def scores(runs: Sequence[Run]) -> dict[str, dict[str, Mean]]:
    """Score -> model -> mean over seeds of the runs' last rows: all numbers 'test/...', the headline first."""
    found: dict[str, dict[str, list[float]]] = {headline(runs)[0]: {}}
    for run in runs:
        for key, value in (run.rows[-1] if run.finished else {}).items():
            split, _, name = key.partition("/")
            if split == "test" and isinstance(value, (int, float)) and not name.startswith("parameters"):
                found.setdefault(name, {}).setdefault(run.model, []).append(float(value))
    return {
        name: {model: mean_over_seeds(v) for model, v in models.items()} for name, models in found.items() if models
    }


def write_score_report(report: Report, folder: str | Path) -> Path:
    """Writes the PNGs and report.html into `folder`; returns the page's path. Raises SpecError without finished runs."""
    runs = sorted(report.runs, key=lambda run: (style.model_order(run.model), run.record.seed))
    if not any(run.finished for run in runs):
        raise SpecError("a report needs at least one finished run.")
    report, target = dataclasses.replace(report, runs=runs), Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    builds = (results, learning, specialisation, routing, what_was_run)
    sections = [part for build in builds if (part := build(report, target))]
    head = [f"<h1>{page.escape(report.title)}</h1>", page.paragraph(best(runs), "lead")]
    links = page.navigation([(anchor, title) for anchor, title, _ in sections])
    body = [*head, links, *(block for _, _, blocks in sections for block in blocks)]
    path = target / "report.html"
    path.write_text(page.page(report.title, body))
    return path


def best(runs: Sequence[Run]) -> str:
    """One sentence: whose mean is best, without a claim that it is beyond chance."""
    name, less = headline(runs)
    means = scores(runs).get(name, {})
    if not means:
        return "No run has test results."
    order = sorted(means, key=lambda model: means[model].mean if less else -means[model].mean)
    first = f"{'Least' if less else 'Highest'} {shown(name)}: {style.model_label(order[0])}, {number(means[order[0]])}"
    others = ", ".join(f"{style.model_label(model)} {number(means[model])}" for model in order[1:])
    seeds = min(mean.count for mean in means.values())
    caution = " One seed says nothing about others." if seeds == 1 else ""
    return f"{first}{f'; {others}' if others else ''}.{caution}"


def results(report: Report, folder: Path) -> Section:
    """Every score of every model, beside what it costs."""
    found, title = scores(report.runs), "Results"
    head = ["", "seeds", *map(shown, found), "parameters", "activated", "FLOPs / example"]
    rows = []
    for model, run in report.first_runs.items():
        means = [models.get(model) for models in found.values()]
        count = max((mean.count for mean in means if mean), default=0)
        costs = (run.record.total_params, run.record.activated_params, run.record.flops_per_example)
        cells = [style.model_label(model), str(count), *(number(mean) if mean else "–" for mean in means)]
        cells += ["–" if cost is None else style.compact(cost) for cost in costs]
        rows.append(page.row(cells, colour=style.model_colour(model)))
    text = "On the test split; ± is the standard error over seeds. Losses are in nats a token, or squared errors of predictions."
    blocks = [page.section("results", title, text), page.table(head, rows)]
    return "results", title, [*blocks, *(page.paragraph(note, "muted") for note in report.notes)]


def learning(report: Report, folder: Path) -> Section:
    """Curves of the training loss and of the headline on the validation split."""
    name, title = headline(report.runs)[0], "Learning curves"
    with style.figure(10.5, 4.6) as canvas:
        _draw_curves(canvas, report.runs, name)
        path = style.save(canvas, folder / "learning_curves.png")
    caption = "Lines are means over seeds, bands reach from the lowest to the highest seed. The loss is smoothed over neighbouring rows."
    return "learning", title, [page.section("learning", title), page.picture(path, caption, alt=title, least=720)]


def specialisation(report: Report, folder: Path) -> Section | None:
    """What the expert of a token says about it, by layer; of language models that were evaluated."""
    rows = []
    for model, run in report.first_runs.items():
        for block, layer in ((run.evaluation or {}).get("routing") or {}).items():
            kinds = layer.get("mutual_information_domain")
            cells = [style.model_label(model), block, f"{layer['mutual_information']:.3f}"]
            cells += ["–" if kinds is None else f"{kinds:.3f}", f"{100 * layer['dead_experts']:.0f} %"]
            rows.append(page.row(cells, colour=style.model_colour(model)))
    if not rows:
        return None
    title = "What experts are for"
    text = (
        "Bits that the expert of a token tells about the token itself, and about its kind (lower case, upper case, digit, space, "
        "punctuation, other); 0 where experts take all tokens alike. First seed of each model, test split."
    )
    head = ["", "layer", "I(expert; token)", "I(expert; kind)", "experts without a token"]
    return "specialisation", title, [page.section("specialisation", title, text), page.table(head, rows)]


def text_lines(runs: Sequence[Run]) -> list[str]:
    """The scores as lines of text, and the sentence of `best`."""
    found = scores(runs)
    models = list(dict.fromkeys(run.model for run in runs))
    width = max([22, *(len(style.model_label(model)) + 2 for model in models)])
    lines = ["", f"{'test':{width}}" + "".join(f"{shown(name):>22}" for name in found)]
    for model in sorted(models, key=style.model_order):
        cells = [number(means[model]) if model in means else "-" for means in found.values()]
        lines.append(f"{style.model_label(model):{width}}" + "".join(f"{cell:>22}" for cell in cells))
    return [*lines, "", best(runs), ""]


def number(mean: Mean) -> str:
    """'2.805 ± 0.012', without ± for one seed."""
    return f"{mean.mean:.3f}" + ("" if mean.standard_error is None else f" ± {mean.standard_error:.3f}")


def shown(name: str) -> str:
    """'bits per byte' for 'bits_per_byte'."""
    return name.replace("_", " ").replace("/", ", ")


def _draw_curves(canvas: Figure, runs: Sequence[Run], name: str) -> None:
    panels = canvas.subplots(1, 2)
    grouped: Mapping[str, list[Run]] = {
        model: [run for run in runs if run.model == model] for model in dict.fromkeys(run.model for run in runs)
    }
    handles = {}
    for model, group in grouped.items():
        raw = [series(run.rows, "train/loss") for run in group]
        loss = [(steps, curves.smooth(values, window=max(1, len(values) // 25))) for steps, values in raw if steps]
        handles[model] = curves.draw(panels[0], loss, model)
        handles[model] = (
            curves.draw(panels[1], [series(run.rows, f"valid/{name}") for run in group], model) or handles[model]
        )
    panels[0].set(title="Training", xlabel="step", ylabel="loss")
    panels[1].set(title="Validation", xlabel="step", ylabel=shown(name))
    for panel in panels:
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    known = {model: handle for model, handle in handles.items() if handle is not None}
    style.legend_above(canvas, list(known.values()), [style.model_label(model) for model in known])
