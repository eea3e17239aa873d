"""Learning curves with seeds as bands, and accuracy against what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from moejax.evals import figure_style as style
from moejax.evals.comparison import Mean, accuracies, by_model
from moejax.evals.run_folders import FINISHED, status
from moejax.evals.run_metrics import Groups, Metric
from moejax.evals.runs import Number, Record, Run

UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
Curve = tuple[Sequence[Number], Sequence[Number] | np.ndarray]  # steps and values


def band(
    curves: Sequence[Curve],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, lowest and highest value over seeds at every step that all seeds have reached.

    Seeds whose steps differ are interpolated linearly onto those of the first.
    """
    steps = np.asarray(curves[0][0], np.float64)
    last = min(max(c[0]) for c in curves)
    steps = steps[steps <= last]
    values = np.stack([np.interp(steps, c[0], c[1]) for c in curves])
    return steps, values.mean(0), values.min(0), values.max(0)


def smooth(values: Sequence[Number], *, window: int) -> np.ndarray:
    """Mean over `window` neighbours, narrower at the ends."""
    array = np.asarray(values, np.float64)
    half = window // 2
    return np.array([array[max(0, i - half) : i + half + 1].mean() for i in range(len(array))])


def learning_curves(
    canvas: Figure,
    groups: Groups,
    metric: Metric | None,
    records: Sequence[Record] = (),
    *,
    by: str = "step",
    baseline: Number | None = None,
) -> None:
    """Training loss, what judges the runs, and validation accuracy of recorded runs where there are any.

    by: 'step', or 'time' since the start of each run. Finished seeds are one line with a band; others a dashed line each.
    """
    panels = canvas.subplots(1, 3 if records else 2, squeeze=False)[0]
    longest = max((run.record.seconds for group in groups.values() for run in group), default=0.0)
    unit, seconds = next((u for u in UNITS if longest >= 2 * u[1]), UNITS[-1])
    axis, scale = (by, 1.0) if by == "step" else (f"time ({unit})", 1.0 / seconds)
    handles: dict[str, Any] = {}
    for panel, name in zip(panels, ("train/loss", metric.name if metric else "valid/loss"), strict=False):
        for model, group in groups.items():
            finished: list[Curve] = []
            others: list[Curve] = []
            for run in group:
                place, values = _along(run, name, by)
                window = max(1, len(values) // 25) if name == "train/loss" else 1
                along: Curve = ([scale * one for one in place], smooth(values, window=window))
                (finished if status(run).state == FINISHED else others).append(along)
            handles[model] = _draw(panel, finished, model) or handles.get(model)
            for curve in others:
                handles[model] = handles.get(model) or _draw_unfinished(panel, curve, model)
    panels[0].set(title="Training loss", xlabel=axis, ylabel="loss (nats)" if _in_nats(metric) else "loss")
    seeds = max((len(g) for g in groups.values()), default=1)
    what = "loss" if metric is None else metric.title
    title = what[:1].upper() + what[1:] + (f" (up to {seeds} seeds)" if seeds > 1 else "")
    panels[1].set(title=title, ylabel=what + (" (%)" if metric and metric.fraction else ""), xlabel=axis)
    for model, recorded in by_model(records).items():
        curves: list[Curve] = [([p[0] for p in r.curve], [p[1] for p in r.curve]) for r in recorded if r.curve]
        handles[model] = _draw(panels[2], curves, model) or handles.get(model)
    if records:
        count = max(len(g) for g in by_model(records).values())
        panels[2].set(title=f"Recorded long runs ({count} seed{'s' if count > 1 else ''})")
        panels[2].set(ylabel="validation accuracy (%)", xlabel="step")
    for panel in panels[1:] if metric and metric.name.endswith("/accuracy") else panels[2:]:
        style.percent(panel)
        _zoom(panel, baseline)
        if baseline is not None:
            draw_baseline(panel, baseline)
    for panel in panels:
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    shown = {m: h for m, h in handles.items() if h is not None}
    style.legend_above(canvas, list(shown.values()), [style.model_label(m) for m in shown], columns=4)


def _along(run: Run, name: str, by: str) -> tuple[list[Number], list[Number]]:
    """Steps, or seconds, and values of the rows that have `name`."""
    rows = [row for row in run.rows if isinstance(row.get(name), (int, float)) and row.get(by) is not None]
    return [row[by] for row in rows], [row[name] for row in rows]


def _in_nats(metric: Metric | None) -> bool:
    return metric is not None and metric.name.endswith(("/accuracy", "/bits_per_byte", "/perplexity"))


def accuracy_against_cost(
    canvas: Figure,
    runs: Sequence[Run],
    records: Sequence[Record] = (),
    *,
    milliseconds: Mapping[str, Number] | None = None,
    baseline: Number | None = None,
) -> None:
    """Test accuracy against total parameters, activated FLOPs of an example, and the measured time of a training step.

    Marks are moved sideways by a few millimetres so that models of equal cost do not hide each other.
    """
    panels = canvas.subplots(1, 3, sharey=True)
    models: list[str] = []
    sizes: dict[str, int | None] = {}
    for source, filled in (([run.record for run in runs], True), (list(records), False)):
        means = accuracies(source)
        shown = [(model, group[0]) for model, group in by_model(source).items() if model in means]
        models += [model for model, _ in shown if model not in models]
        for index, (model, record) in enumerate(shown):
            dodge = ScaledTranslation((index - (len(shown) - 1) / 2) * 0.09, 0, canvas.dpi_scale_trans)
            known = sizes.setdefault(model, record.total_params) == record.total_params  # the model that was timed
            time = (milliseconds or {}).get(model) if known else None
            costs = (record.total_params, record.flops_per_example, time)
            for panel, cost in zip(panels, costs, strict=True):
                if cost is not None:
                    _mark(panel, cost, means[model], model, filled=filled, dodge=dodge)
    labels = ("total parameters", "FLOPs per picture, forward", "time per training step (ms, median)")
    for panel, label in zip(panels, labels, strict=True):
        panel.set_xlabel(label)
        panel.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: style.compact(value)))
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        panel.margins(x=0.25, y=0.2)
        low, high = panel.get_xlim()
        panel.set_xlim(min(low, 0.0) if low < 0.35 * high else low - 0.1 * abs(low), high + 0.1 * abs(high))
        if not panel.lines and not panel.collections:
            panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=style.MUTED)
            panel.set_xticks([])
            continue
        if baseline is not None:
            draw_baseline(panel, baseline)
    panels[0].set_ylabel("test accuracy (%)")
    style.percent(panels[0])
    handles = [_key(style.model_colour(m), style.model_marker(m), filled=True) for m in models]
    names = [style.model_label(m) for m in models]
    if records:
        handles += [_key(style.MUTED, "o", filled=True), _key(style.MUTED, "o", filled=False)]
        names += ["this run", "recorded long run"]
    style.legend_above(canvas, handles, names)


def reliability(canvas: Figure, evaluations: Mapping[str, Mapping]) -> None:
    """Accuracy against confidence, one panel per model; the diagonal is perfect calibration."""
    panels = canvas.subplots(1, len(evaluations), sharey=True, squeeze=False)[0]
    for panel, (model, evaluation) in zip(panels, evaluations.items(), strict=True):
        calibration = evaluation["calibration"]
        bins = calibration["bins"]
        total = sum(b["count"] for b in bins)
        colour = style.model_colour(model)
        panel.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        panel.bar(
            [b["low"] for b in bins], [b["count"] / total for b in bins], [b["high"] - b["low"] for b in bins],
            align="edge", color=colour, alpha=0.18, linewidth=0,
        )  # fmt: skip
        shown = [b for b in bins if b["count"] >= 10] or bins
        panel.plot(
            [b["confidence"] for b in shown], [b["accuracy"] for b in shown], color=colour, marker="o", markersize=5
        )
        panel.set(title=style.model_label(model), xlabel="confidence (%)", xlim=(0, 1), ylim=(0, 1.02))
        panel.text(0.04, 0.93, f"ECE {100 * calibration['ece']:.1f} %", transform=panel.transAxes, va="top")
        style.percent(panel, which="x")
    panels[0].set_ylabel("accuracy (%)   bars: share of pictures")
    style.percent(panels[0])


def draw_baseline(panel: Axes, value: Number) -> None:
    """Logistic regression as a dashed line, named at its left end, where learning curves are still below."""
    panel.axhline(value, color=style.MUTED, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
    panel.annotate(
        "logistic regression", (0.02, value), xycoords=panel.get_yaxis_transform(), textcoords="offset points",
        xytext=(0, 3), va="bottom", ha="left", fontsize=9, color=style.MUTED,
    )  # fmt: skip


def _mark(panel: Axes, cost: Number, mean: Mean, model: str, *, filled: bool, dodge: Any) -> None:
    error = mean.standard_error or 0.0
    panel.plot([cost, cost], [mean.mean - error, mean.mean + error], linestyle="none")  # autoscaling heeds this one
    panel.errorbar(
        [cost], [mean.mean], yerr=[error] if error else None, capsize=4, linestyle="none", markersize=10,
        marker=style.model_marker(model), color=style.model_colour(model), markeredgewidth=2,
        markerfacecolor=None if filled else "white", transform=panel.transData + dodge,
    )  # fmt: skip


def _key(colour: str, marker: str, *, filled: bool) -> Line2D:
    face = colour if filled else "white"
    return Line2D(
        [], [], color=colour, marker=marker, markerfacecolor=face, markersize=9, markeredgewidth=2, linestyle="none"
    )


def _zoom(panel: Axes, baseline: Number | None) -> None:
    """Limits that show the end of the curves; their steep beginning may enter from below."""
    curves = [np.asarray(line.get_ydata(), np.float64) for line in panel.lines]
    if not curves:
        return
    marks: list[float] = [float(baseline)] if baseline is not None else []
    high = max([float(c.max()) for c in curves] + marks)
    low = min([float(c[-1]) for c in curves] + marks) - 0.22
    panel.set_ylim(max(low, min(float(c.min()) for c in curves) - 0.02, 0.0), min(high + 0.03, 1.0))


def _draw_unfinished(panel: Axes, curve: Curve, model: str) -> Any:
    if not len(curve[0]):
        return None
    colour = style.model_colour(model)
    panel.plot(
        curve[0][-1:], curve[1][-1:], color=colour, marker="x", markersize=8, markeredgewidth=2, linestyle="none"
    )
    return panel.plot(*curve, color=colour, linestyle=(0, (3, 2)))[0]


def _draw(panel: Axes, curves: Sequence[Curve], model: str) -> Any:
    curves = [c for c in curves if len(c) == 2 and len(c[0])]
    if not curves:
        return None
    steps, mean, low, high = band(curves)
    colour = style.model_colour(model)
    if len(curves) > 1:
        panel.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    return panel.plot(steps, mean, color=colour, marker="o" if len(steps) < 4 else None, markersize=5)[0]
