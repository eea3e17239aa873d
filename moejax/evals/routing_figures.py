"""Figures of routing: load over training, health, and what each expert prefers."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moejax.evals import figure_style as style
from moejax.evals.runs import Run, block_series, series

HEALTH = (  # metric, title, unit of the axis, is it a fraction?
    ("entropy", "Router entropy", "nats", False),
    ("margin", "Margin, best - second score", "score", False),
    ("dead_experts", "Experts without a token", "% of experts", True),
    ("dropped", "Dropped choices", "% of choices", True),
    ("unserved", "Tokens no expert serves", "% of tokens", True),
    ("padding", "Empty slots computed", "% of slots", True),
)
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))


def block_label(block: str) -> str:
    """'block_05' -> 'layer 5' (counted from 0)."""
    return f"layer {int(block.removeprefix('block_'))}"


def routed_runs(runs: Sequence[Run]) -> list[Run]:
    """The first seed of every model that reports routing metrics."""
    first: dict[str, Run] = {}
    for run in runs:
        if block_series(run.rows):
            first.setdefault(run.model, run)
    return list(first.values())


def load_grid(runs: Sequence[Run]) -> tuple[int, int] | None:
    """Rows and columns of `load_over_training`; None when no run reports a load."""
    counts = [len(_load_blocks(run)) for run in runs if _load_blocks(run)]
    return (len(counts), max(counts)) if counts else None


def health_panels(runs: Sequence[Run]) -> int:
    """How many measures `health` has to draw."""
    return len(_health_metrics(runs))


def load_over_training(canvas: Figure, runs: Sequence[Run]) -> None:
    """Stacked shares of the experts over training: a row per model, a column per layer."""
    sets = [(run, blocks) for run in runs if (blocks := _load_blocks(run))]
    columns = max(len(blocks) for _, blocks in sets)
    panels = canvas.subplots(len(sets), columns, squeeze=False, sharey=True)
    for row, (run, blocks) in zip(panels, sets, strict=True):
        for panel, block in zip(row, blocks, strict=False):
            _stack(panel, run, block)
            panel.set_title(f"{style.model_label(run.model)}, {block_label(block)}", fontsize=11.5)
        for panel in row[len(blocks) :]:
            panel.set_axis_off()
        row[0].set_ylabel("share of assignments (%)", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("step")
    style.percent(panels[0][0])
    experts = max(len(series(run.rows, _key(run, blocks[0]))[1][0]) for run, blocks in sets)
    if experts <= 16:
        colours = style.expert_colours(experts) / 255.0
        handles = [Line2D([], [], color=c, linewidth=8, solid_capstyle="butt") for c in colours]
        canvas.legend(
            handles, [str(e) for e in range(experts)], loc="outside lower center", ncols=experts, title="expert",
            handlelength=1.0, columnspacing=1.0, fontsize=10,
        )  # fmt: skip


def health(canvas: Figure, runs: Sequence[Run]) -> None:
    """Entropy, margin, dead experts, drops, unserved tokens and padding over training; colour is the model, dash the layer."""
    metrics = _health_metrics(runs)
    columns = min(3, len(metrics))
    panels = canvas.subplots(-(-len(metrics) // columns), columns, squeeze=False).ravel()
    layers: dict[str, Any] = {}
    for panel, (metric, title, unit, fraction) in zip(panels, metrics, strict=False):
        for run in runs:
            for index, (block, names) in enumerate(block_series(run.rows).items()):
                if metric not in names:
                    continue
                steps, values = _metric(run, block, metric)
                line = DASHES[index % len(DASHES)]
                layers.setdefault(block_label(block), line)
                panel.plot(steps, values, color=style.model_colour(run.model), linestyle=line, linewidth=1.8)
        panel.set(title=title, ylabel=unit, xlabel="step")
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        top = panel.get_ylim()[1]
        panel.set_ylim(-0.02 * top if metric != "margin" else 0, max(top * 1.05, 0.02 if fraction else 1e-6))
        if fraction:
            style.percent(panel)
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    shown = [run.model for run in runs]
    handles = [Line2D([], [], color=style.model_colour(m)) for m in shown]
    handles += [Line2D([], [], color=style.INK, linestyle=line, linewidth=1.6) for line in layers.values()]
    style.legend_above(canvas, handles, [style.model_label(m) for m in shown] + list(layers), columns=8)


def preference_height(layers: Mapping[str, Mapping]) -> float:
    """Inches that `preferences` needs."""
    return 1.9 + sum(0.9 + 0.3 * len(layer["realised_load"]) for layer in layers.values())


def preferences(canvas: Figure, layers: Mapping[str, Mapping], *, class_domains: Sequence[int]) -> None:
    """Expert x class, a panel per layer: how many of a class's tokens the expert processes, against its mean over classes.

    Classes are ordered by domain; experts by the domain for which they do most, then by load.
    """
    order = sorted(range(len(class_domains)), key=lambda c: (class_domains[c], c))
    heights = [len(layer["realised_load"]) for layer in layers.values()]
    panels = canvas.subplots(len(layers), 1, squeeze=False, height_ratios=heights)[:, 0]
    colour = None
    for panel, (block, layer) in zip(panels, layers.items(), strict=True):
        table = np.asarray(layer["expert_by_class"])[:, order]
        domains = np.asarray(layer.get("expert_by_domain", table))
        relative = domains / np.maximum(domains.mean(1, keepdims=True), 1e-12)
        rows = sorted(range(len(table)), key=lambda e: (relative[e].argmax(), -relative[e].max()))
        shares = table / np.maximum(table.sum(0, keepdims=True), 1e-12)
        colour = panel.imshow(
            100 * shares[rows], aspect="auto", cmap="YlGnBu", vmin=0, interpolation="nearest",
            vmax=max(100 * np.quantile(shares, 0.995), 1.0),
        )  # fmt: skip
        panel.set_yticks(range(len(rows)), [f"{e}" for e in rows])
        for tick, expert in zip(panel.get_yticklabels(), rows, strict=True):
            colours = style.expert_colours(len(rows))[expert] / 255.0
            tick.set_bbox({"facecolor": (*colours, 0.9), "edgecolor": "none", "pad": 1.6})
            tick.set_color("white" if colours @ np.array([0.299, 0.587, 0.114]) < 0.55 else style.INK)
        bits = layer.get("mutual_information", 0.0)
        panel.set_title(f"{block_label(block)}: expert and class share {bits:.2f} bits", fontsize=11.5)
        panel.set_ylabel("expert")
        panel.set_xticks([])
        panel.grid(False)
        panel.spines[:].set_visible(False)
        _domain_lines(panel, [class_domains[c] for c in order])
        bar = canvas.colorbar(colour, ax=panel, pad=0.01, aspect=max(6.0, 1.7 * len(rows)))
        bar.outline.set_visible(False)
        bar.set_label("% of class's tokens", fontsize=9)
    last = list(layers.values())[-1]
    names = [last["classes"][c] for c in order]
    panels[-1].set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9.5)
    _domain_names(panels[0], [class_domains[c] for c in order], last.get("domains", ()))


def _domain_lines(panel: Axes, domains: Sequence[int]) -> None:
    for i in range(1, len(domains)):
        if domains[i] != domains[i - 1]:
            panel.axvline(i - 0.5, color="white", linewidth=4)


def _domain_names(panel: Axes, domains: Sequence[int], names: Sequence[str]) -> None:
    panel.set_title(panel.get_title(loc="left"), pad=24, fontsize=11.5)
    for index, name in enumerate(names):
        members = [i for i, domain in enumerate(domains) if domain == index]
        if members:
            panel.annotate(
                name, (np.mean(members), 1.0), xycoords=panel.get_xaxis_transform(), textcoords="offset points",
                xytext=(0, 6), ha="center", color=style.MUTED, fontsize=11,
            )  # fmt: skip


def _load_blocks(run: Run) -> list[str]:
    return [block for block, names in block_series(run.rows).items() if names & {"load", "served_load"}]


def _health_metrics(runs: Sequence[Run]) -> list[tuple[str, str, str, bool]]:
    return [entry for entry in HEALTH if any(entry[0] in n for run in runs for n in block_series(run.rows).values())]


def _stack(panel: Axes, run: Run, block: str) -> None:
    steps, values = series(run.rows, _key(run, block))
    load = np.asarray(values, np.float64)
    load = load / np.maximum(load.sum(1, keepdims=True), 1e-12)
    if len(steps) == 1:
        steps, load = [0, steps[0]], np.repeat(load, 2, axis=0)
    panel.stackplot(
        steps, load.T, colors=list(style.expert_colours(load.shape[1]) / 255.0), edgecolor="white", linewidth=0.5
    )
    panel.set(xlim=(steps[0], steps[-1]), ylim=(0, 1))
    panel.grid(False)
    panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))


def _key(run: Run, block: str) -> str:
    names = block_series(run.rows)[block]
    metric = "load" if "load" in names else "served_load"
    key = f"{block}/{metric}"
    return key if any(key in row for row in run.rows) else f"train/{key}"


def _metric(run: Run, block: str, metric: str) -> tuple[list[int], list[float]]:
    steps, values = series(run.rows, f"{block}/{metric}")
    return (steps, values) if steps else series(run.rows, f"train/{block}/{metric}")
