"""The report's figures, section by section: each draws its PNGs and returns the HTML around them, or None."""

import re
from pathlib import Path

import numpy as np

from moejax.evals import curves, map_figures, page, routing_figures
from moejax.evals import figure_style as style
from moejax.evals.comparison import Mean
from moejax.evals.map_figures import MapSheet
from moejax.evals.report_contents import Report, Section
from moejax.evals.report_results import percent
from moejax.evals.run_folders import FINISHED, status
from moejax.evals.run_groups import by_task
from moejax.evals.run_metrics import Groups, judged_by
from moejax.evals.runs import Number


def learning(report: Report, folder: Path) -> Section:
    """Curves of the loss and of what judges a task, by step and by time: two pictures per task."""
    title = "Learning curves"
    blocks = [page.section("learning", title)]
    tasks = by_task(report.runs)
    for task, groups in tasks.items():
        vision = task == "classification"
        metric = judged_by(groups)
        for by in ("step", "time"):
            records = report.records if vision and by == "step" else ()
            baseline = report.baseline.get("all") if vision else None
            with style.figure(14.0 if records else 10.5, 4.6) as canvas:
                curves.learning_curves(canvas, groups, metric, records, by=by, baseline=baseline)
                suffix = ("" if len(tasks) == 1 else f"_{task}") + ("" if by == "step" else "_by_time")
                path = style.save(canvas, folder / f"learning_curves{suffix}.png")
            blocks.append(
                page.picture(path, _curves_caption(groups, baseline, by), alt=f"{title}, {task}, by {by}", least=720)
            )
    return "learning", title, blocks


def _curves_caption(groups: Groups, baseline: Number | None, by: str) -> str:
    text = "Lines are means over seeds, bands reach from the lowest to the highest seed. The loss is smoothed over neighbouring rows."
    if by == "time":
        text = "The same by the time since the start, on the device of each run, evaluations included."
    if any(status(run).state != FINISHED for group in groups.values() for run in group):
        text += " A dashed line that ends in a cross is a run that is not finished."
    return text + (" The dashed level is logistic regression on the test set." if baseline is not None else "")


def cost(report: Report, folder: Path) -> Section | None:
    """Accuracy against parameters, FLOPs and time; None where no run has both an accuracy and a cost."""
    costs = [*(r.record for r in report.runs), *report.records]
    if not any(r.test_accuracy and (r.total_params or r.flops_per_example or report.milliseconds) for r in costs):
        return None
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


def maps(report: Report, folder: Path) -> Section | None:
    """Expert maps, and what slots look at."""
    if not report.sheets:
        return None
    title = "Which expert looked where"
    text = (
        "The assignments that really happened, after capacity. A patch has the colour of the expert that processed it, the "
        "stronger the larger its weight. Striped grey patches were processed by no expert: their tokens passed the layer on the "
        "residual path alone."
    )
    blocks = [page.section("maps", title, text)]
    for sheet in sorted(report.sheets, key=lambda sheet: style.model_order(sheet.model)):
        label = style.model_label(sheet.model)
        with style.figure(*map_figures.map_sheet_size(sheet)) as canvas:
            map_figures.draw_map_sheet(canvas, sheet)
            path = style.save(canvas, folder / f"expert_maps_{_file(sheet.model)}.png")
        blocks += [
            f"<h3>{page.escape(label)}</h3>",
            page.picture(path, _map_caption(sheet), alt=f"expert maps of {label}", least=820, photo=True),
        ]
        if sheet.slots is not None:
            size = map_figures.map_sheet_size(sheet)
            with style.figure(size[0] + 0.6, 1.12 * (sheet.slots.shape[1] + 1) + 0.3) as canvas:
                map_figures.draw_slots(canvas, sheet)
                path = style.save(canvas, folder / f"slots_{_file(sheet.model)}.png")
            caption = "What a few slots are made of. A slot is a weighted mean of all patches; orange patches count more than an even share, purple ones less."
            blocks.append(page.picture(path, caption, alt=f"slots of {label}", least=820, photo=True))
    return "maps", title, blocks


def preferences(report: Report, folder: Path) -> Section | None:
    """Experts by class."""
    blocks = []
    for model, run in report.first_runs.items():
        layers = (run.evaluation or {}).get("routing", {})
        classes = [len(layer.get("classes", ())) for layer in layers.values()]
        if not layers or set(classes) != {len(report.class_domains)}:  # of another data set, or of none
            continue
        with style.figure(12.5, routing_figures.preference_height(layers)) as canvas:
            routing_figures.preferences(canvas, layers, class_domains=report.class_domains)
            path = style.save(canvas, folder / f"preferences_{_file(model)}.png")
        label = style.model_label(model)
        caption = "Columns sum to 100 %. Row labels carry the experts' colours of the maps above; experts are sorted by domain."
        blocks += [
            f"<h3>{page.escape(label)}</h3>",
            page.picture(path, caption, alt=f"experts by class, {label}", least=820, photo=True),
        ]
    if not blocks:
        return None
    title = "What each expert prefers"
    text = (
        "How the tokens of each class of the test set are shared among the experts. Routers see no labels. The information that "
        "the expert of a token gives about its class says how specialised a layer is: 0 bits when all classes are treated alike."
    )
    return "preferences", title, [page.section("preferences", title, text), *blocks]


def routing(report: Report, folder: Path) -> Section | None:
    """Load and health of the routers over training."""
    runs = routing_figures.routed_runs(report.runs)
    if not runs:
        return None
    title = "Routing over training"
    blocks = [
        page.section("routing", title, "How the work is shared among experts, and whether the routers stay healthy.")
    ]
    if size := routing_figures.load_grid(runs):
        with style.figure(max(5.2 * size[1] + 0.6, 8.0), 2.55 * size[0] + 0.9) as canvas:
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


def calibration(report: Report, folder: Path) -> Section | None:
    """Reliability diagrams, scores and the few-shot probe."""
    found = {
        m: run.evaluation for m, run in report.first_runs.items() if run.evaluation and "calibration" in run.evaluation
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
        cells.append(percent(Mean(few["accuracy"], few["standard_error"], few["draws"])) if few else "")
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


def data(report: Report, folder: Path) -> Section | None:
    """Sample pictures."""
    if not report.samples:
        return None
    with style.figure(12.0, 2.75 * len(report.samples)) as canvas:
        map_figures.draw_samples(canvas, report.samples)
        path = style.save(canvas, folder / "samples.png")
    title = "The data"
    names = ", ".join(report.samples)
    text = f"Pictures of the training set, one of every class and more: {names}."
    return (
        "data",
        title,
        [page.section("data", title), page.picture(path, text, alt="samples of the data", least=720, photo=True)],
    )


def _file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", name)


def _map_caption(sheet: MapSheet) -> str:
    unserved = [float((maps.expert < 0).mean()) for maps in sheet.layers.values()]
    if any(maps.kind == "mixed" for maps in sheet.layers.values()):
        return "Every expert sees a mixture of all patches; the colour is the expert whose slots weigh most in the patch's output."
    served = np.mean([maps.served.mean() for maps in sheet.layers.values()])
    return f"{100 * np.mean(unserved):.0f} % of these patches were processed by no expert; a patch was processed by {served:.1f} experts on average."
