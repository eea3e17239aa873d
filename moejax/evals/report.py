"""The report: from finished runs to PNGs and one self-contained HTML page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moejax.core.errors import SpecError
from moejax.evals import curves, map_figures, page, routing_figures
from moejax.evals import figure_style as style
from moejax.evals.comparison import Mean, accuracies, by_model, verdict
from moejax.evals.map_figures import MapSheet
from moejax.evals.runs import Number, Record, Run

Samples = Mapping[str, tuple[np.ndarray, Sequence[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made of; all but the runs may be missing, and then its section is left out.

    runs: finished runs. records: recorded results drawn beside them. baseline: accuracy of logistic regression by domain,
    with 'all'. milliseconds: median time of a training step by model. sheets: expert maps. samples: domain -> (pictures,
    class names). domains, class_domains: of the data set. environment: what was run on. notes: sentences under the results.
    """

    runs: Sequence[Run]
    records: Sequence[Record] = ()
    baseline: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    milliseconds: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    sheets: Sequence[MapSheet] = ()
    samples: Samples = dataclasses.field(default_factory=dict)
    domains: Sequence[str] = ()
    class_domains: Sequence[int] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    title: str = "Mixtures of experts that see"

    def write(self, folder: str | Path) -> Path:
        """Writes the PNGs and report.html into `folder`; returns the page's path. Raises SpecError without runs."""
        if not self.runs:
            raise SpecError("a report needs at least one finished run.")
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        ordered = dataclasses.replace(
            self, runs=sorted(self.runs, key=lambda r: (style.model_order(r.model), r.record.seed))
        )
        sections = [part for build in SECTIONS if (part := build(ordered, target))]
        links = page.navigation([(anchor, title) for anchor, title, _ in sections])
        body = [*_header(ordered), links, *(block for _, _, blocks in sections for block in blocks)]
        path = target / "report.html"
        path.write_text(page.page(self.title, body))
        return path


Section = tuple[str, str, list[str]]


def _header(report: Report) -> list[str]:
    records = [run.record for run in report.runs]
    means = accuracies(records)
    labels = {model: style.model_label(model) for model in by_model(records)}
    dataset = records[0].dataset or "images"
    blocks = [f"<h1>{page.escape(report.title)}</h1>"]
    blocks.append(
        page.paragraph(f"{len(labels)} vision models at equal activated compute, trained on {dataset}.", "muted")
    )
    blocks.append(page.paragraph(verdict(means, labels, num_test=_num_test(report)), "lead"))
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


def _results(report: Report, folder: Path) -> Section:
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
        tests = {r.num_test for r in recorded} - {None}
        text = f"Recorded longer runs, {minutes:.0f} minutes a model on average. "
        blocks += [
            "<h3>Longer runs</h3>",
            page.paragraph(text + verdict(accuracies(recorded), labels, num_test=min(tests, default=None))),
        ]
        blocks.append(_accuracy_table(report, recorded))
    blocks += [page.paragraph(note, "muted") for note in report.notes]
    return "results", title, blocks


def _learning(report: Report, folder: Path) -> Section:
    wide = 14.0 if report.records else 10.5
    with style.figure(wide, 4.6) as canvas:
        curves.learning_curves(canvas, report.runs, report.records, baseline=report.baseline.get("all"))
        path = style.save(canvas, folder / "learning_curves.png")
    caption = "Lines are means over seeds, bands reach from the lowest to the highest seed. The loss is smoothed over neighbouring rows."
    if report.baseline:
        caption += " The dashed line is logistic regression on the test set."
    title = "Learning curves"
    return "learning", title, [page.section("learning", title), page.picture(path, caption, alt=title, least=720)]


def _cost(report: Report, folder: Path) -> Section | None:
    with style.figure(13.0, 4.6) as canvas:
        curves.accuracy_against_cost(
            canvas, report.runs, report.records, milliseconds=report.milliseconds, baseline=report.baseline.get("all")
        )
        path = style.save(canvas, folder / "accuracy_against_cost.png")
    title = "What accuracy costs"
    text = (
        "Experts add parameters without adding arithmetic: models that lie above each other in the middle panel do the same "
        "work per picture. Time is measured, not derived: steps of all models in turn, and the median of each."
    )
    caption = "Bars are standard errors over seeds. Hollow marks: recorded longer runs."
    return "cost", title, [page.section("cost", title, text), page.picture(path, caption, alt=title, least=720)]


def _maps(report: Report, folder: Path) -> Section | None:
    if not report.sheets:
        return None
    title = "Which expert looked where"
    text = (
        "The assignments that really happened, after capacity. A patch has the colour of the expert that processed it, the "
        "stronger the larger its weight. Striped grey patches were processed by no expert: their tokens passed the layer on the "
        "residual path alone."
    )
    blocks = [page.section("maps", title, text)]
    for sheet in report.sheets:
        label = style.model_label(sheet.model)
        with style.figure(*map_figures.map_sheet_size(sheet)) as canvas:
            map_figures.draw_map_sheet(canvas, sheet)
            path = style.save(canvas, folder / f"expert_maps_{sheet.model}.png")
        blocks += [
            f"<h3>{page.escape(label)}</h3>",
            page.picture(path, _map_caption(sheet), alt=f"expert maps of {label}", least=820),
        ]
        if sheet.slots is not None:
            size = map_figures.map_sheet_size(sheet)
            with style.figure(size[0] + 0.6, 1.12 * (sheet.slots.shape[1] + 1) + 0.3) as canvas:
                map_figures.draw_slots(canvas, sheet)
                path = style.save(canvas, folder / f"slots_{sheet.model}.png")
            caption = "What a few slots are made of: the dispatch weight of every patch. A slot is a weighted mean of all patches."
            blocks.append(page.picture(path, caption, alt=f"slots of {label}", least=820))
    return "maps", title, blocks


def _preferences(report: Report, folder: Path) -> Section | None:
    blocks = []
    for model, run in _first_runs(report).items():
        layers = (run.evaluation or {}).get("routing", {})
        if not layers or not report.class_domains:
            continue
        with style.figure(12.5, routing_figures.preference_height(layers)) as canvas:
            routing_figures.preferences(canvas, layers, class_domains=report.class_domains)
            path = style.save(canvas, folder / f"preferences_{model}.png")
        label = style.model_label(model)
        caption = "Columns sum to 100 %. Row labels carry the experts' colours of the maps above; experts are sorted by domain."
        blocks += [
            f"<h3>{page.escape(label)}</h3>",
            page.picture(path, caption, alt=f"experts by class, {label}", least=820),
        ]
    if not blocks:
        return None
    title = "What each expert prefers"
    text = (
        "How the tokens of each class of the test set are shared among the experts. Routers see no labels. The information that "
        "the expert of a token gives about its class says how specialised a layer is: 0 bits when all classes are treated alike."
    )
    return "preferences", title, [page.section("preferences", title, text), *blocks]


def _routing(report: Report, folder: Path) -> Section | None:
    runs = routing_figures.routed_runs(report.runs)
    if not runs:
        return None
    title = "Routing over training"
    blocks = [
        page.section("routing", title, "How the work is shared among experts, and whether the routers stay healthy.")
    ]
    if size := routing_figures.load_grid(runs):
        with style.figure(5.2 * size[1] + 0.6, 2.55 * size[0] + 0.9) as canvas:
            routing_figures.load_over_training(canvas, runs)
            path = style.save(canvas, folder / "load_over_training.png")
        caption = "Share of the assignments that each expert receives. Even bands mean balance; a band that vanishes is a dead expert."
        blocks.append(page.picture(path, caption, alt="expert load over training", least=560))
    if count := routing_figures.health_panels(runs):
        with style.figure(12.5, 3.3 * -(-count // 3) + 0.7) as canvas:
            routing_figures.health(canvas, runs)
            path = style.save(canvas, folder / "routing_health.png")
        caption = "First seed of each model. Colour is the model, dash the layer. Measures that a router does not have are not drawn."
        blocks.append(page.picture(path, caption, alt="routing health over training", least=720))
    return "routing", title, blocks


def _calibration(report: Report, folder: Path) -> Section | None:
    found = {
        m: run.evaluation
        for m, run in _first_runs(report).items()
        if run.evaluation and "calibration" in run.evaluation
    }
    if not found:
        return None
    title = "Calibration and few-shot"
    with style.figure(3.1 * len(found) + 0.9, 3.7) as canvas:
        curves.reliability(canvas, found)
        path = style.save(canvas, folder / "calibration.png")
    rows = []
    for model, evaluation in found.items():
        values, few = evaluation["calibration"], evaluation.get("few_shot")
        cells = [
            style.model_label(model),
            f"{100 * values['ece']:.1f}",
            f"{values['nll']:.3f}",
            f"{values['brier']:.3f}",
        ]
        cells.append(_percent(Mean(few["accuracy"], few["standard_error"], few["draws"])) if few else "")
        rows.append(page.row(cells, colour=style.model_colour(model)))
    shots = next((e["few_shot"]["shots"] for e in found.values() if e.get("few_shot")), 10)
    head = ["", "ECE (%)", "NLL (nats)", "Brier", f"{shots}-shot ridge (%)"]
    text = (
        f"First seed of each model, test set. The few-shot column is a ridge regression on the frozen features from {shots} training "
        "pictures per class, ± its standard error over draws; the features were trained on the same classes."
    )
    caption = "Below the diagonal the model is too sure of itself. Bins with fewer than 10 pictures are not drawn."
    blocks = [page.section("calibration", title, text), page.table(head, rows)]
    return "calibration", title, [*blocks, page.picture(path, caption, alt="reliability diagrams", least=640)]


def _data(report: Report, folder: Path) -> Section | None:
    if not report.samples:
        return None
    with style.figure(12.0, 2.75 * len(report.samples)) as canvas:
        map_figures.draw_samples(canvas, report.samples)
        path = style.save(canvas, folder / "samples.png")
    title = "The data"
    names = ", ".join(report.samples)
    text = f"Pictures of the training set, one of every class and more: {names}."
    return "data", title, [page.section("data", title), page.picture(path, text, alt="samples of the data", least=720)]


def _what_was_run(report: Report, folder: Path) -> Section:
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
                    record.config,
                ],
                colour=style.model_colour(record.model),
            )
        )
    blocks = [page.section("run", title), page.table(["", "seed", "steps", "minutes", "config"], rows)]
    blocks.append(page.facts(report.environment))
    for model, run in _first_runs(report).items():
        blocks.append(page.folded(f"Configuration of {style.model_label(model)}", json.dumps(run.config, indent=1)))
    return "run", title, blocks


SECTIONS = (_results, _learning, _cost, _maps, _preferences, _routing, _calibration, _data, _what_was_run)


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
        cells = [style.model_label(model), str(len(group)), *(_percent(m) for m in scores)]
        cells += [_size(record.total_params), _size(record.activated_params), _size(record.flops_per_example)]
        cells.append(f"{report.milliseconds[model]:.0f}" if model in report.milliseconds else "–")
        rows.append(page.row(cells, colour=style.model_colour(model), best=[False, False, *best]))
    if report.baseline:
        scores = [f"{100 * report.baseline[d]:.1f}" if d in report.baseline else "–" for d in columns]
        rows.append(page.row(["Logistic regression", "", *scores, "", "", "", ""], kind="baseline"))
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


def _map_caption(sheet: MapSheet) -> str:
    unserved = [float((maps.expert < 0).mean()) for maps in sheet.layers.values()]
    if any(maps.kind == "mixed" for maps in sheet.layers.values()):
        return "Every expert sees a mixture of all patches; the colour is the expert whose slots weigh most in the patch's output."
    served = np.mean([maps.served.mean() for maps in sheet.layers.values()])
    return f"{100 * np.mean(unserved):.0f} % of these patches were processed by no expert; a patch was processed by {served:.1f} experts on average."


def _first_runs(report: Report) -> dict[str, Run]:
    first: dict[str, Run] = {}
    for run in report.runs:
        first.setdefault(run.model, run)
    return first


def _num_test(report: Report) -> int | None:
    return min((run.record.num_test for run in report.runs if run.record.num_test), default=None)


def _percent(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return f"{100 * mean.mean:.1f}" + ("" if mean.standard_error is None else f" ± {100 * mean.standard_error:.1f}")


def _size(value: int | None) -> str:
    return "–" if value is None else style.compact(value)
