"""Figures of expert usage: over the noise axis, over the picture, over the classes, and what the choice tells about each.

Colour is always usage against an even share of the layer: 2 means twice as much as if all experts worked alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from moejax.evals import figure_style as style
from moejax.evals.expert_usage import Usage
from moejax.evals.routing_figures import block_label
from moejax.evals.usage_information import Information, concentration

_COLOURS = {"position": "#0072b2", "time": "#d55e00", "class": "#009e73"}
_LIMIT = 3.0  # doublings at which the colour ends


def time_size(usage: Usage) -> tuple[float, float]:
    """Inches of `over_time`."""
    return 8.0, 1.2 + sum(0.9 + 0.16 * usage.num_experts for _ in usage.blocks)


def over_time(canvas: Figure, usage: Usage, *, title: str = "") -> None:
    """Expert x time, a panel per layer, noise on the right."""
    panels = canvas.subplots(len(usage.blocks), 1, squeeze=False, sharex=True)[:, 0]
    columns = np.arange(len(usage.times))
    drawn = None
    for panel, block, table in zip(panels, usage.blocks, usage.by_time(), strict=True):
        drawn = _heat(panel, table.T)
        panel.set_title(block_label(block), fontsize=11.5)
        _expert_ticks(panel, usage.num_experts)
    shown = columns[:: max(1, len(columns) // 8)]
    panels[-1].set_xticks(shown, [f"{usage.times[i]:.2g}" for i in shown])
    panels[-1].set_xlabel("time: 0 is data, 1 is noise; sampling goes from right to left")
    _bar(canvas, drawn, panels, title)


def image_size(usage: Usage) -> tuple[float, float]:
    """Inches of `over_image`."""
    return 2.2 + 0.8 * usage.num_experts, 0.9 + 0.95 * len(usage.blocks)


def over_image(canvas: Figure, usage: Usage, *, title: str = "") -> None:
    """Where in the picture each expert works: a row per layer, a column per expert."""
    panels = canvas.subplots(len(usage.blocks), usage.num_experts, squeeze=False)
    drawn = None
    for row, block, table in zip(panels, usage.blocks, usage.by_position(), strict=True):
        factors = _doublings(table)
        for expert, panel in enumerate(row):
            drawn = panel.imshow(factors[:, expert].reshape(usage.grid), **_scale())
            _bare(panel)
        row[0].set_ylabel(block_label(block), fontsize=10)
    for expert, panel in enumerate(panels[0]):
        panel.set_title(str(expert), fontsize=10, loc="center", pad=4)
    _bar(canvas, drawn, panels, title)


def class_size(usage: Usage) -> tuple[float, float]:
    """Inches of `over_classes`."""
    width, height = time_size(usage)
    return max(width, 2.5 + 0.35 * usage.num_classes), height + 0.6


def over_classes(canvas: Figure, usage: Usage, class_names: Sequence[str], *, title: str = "") -> None:
    """Expert x class, a panel per layer. Classes without a picture stay white."""
    panels = canvas.subplots(len(usage.blocks), 1, squeeze=False, sharex=True)[:, 0]
    drawn = None
    for panel, block, table in zip(panels, usage.blocks, usage.by_class(), strict=True):
        drawn = _heat(panel, np.where(table.sum(1, keepdims=True) > 0, table, np.nan).T)
        panel.set_title(block_label(block), fontsize=11.5)
        _expert_ticks(panel, usage.num_experts)
    panels[-1].set_xticks(
        range(len(class_names)), list(class_names), rotation=45, ha="right", rotation_mode="anchor", fontsize=9.5
    )
    _bar(canvas, drawn, panels, title)


def tells(canvas: Figure, usages: Mapping[str, Usage], found: Mapping[str, Mapping[str, Information]]) -> None:
    """Bits that expert and place, time and class share in each layer, less chance; concentration over time.

    usages, found: by the name of what was watched, such as 'noised pictures' and 'sampling'.
    """
    panels = canvas.subplots(1, len(usages) + 1, squeeze=False)[0]
    for panel, (name, usage) in zip(panels, usages.items(), strict=False):
        layers = np.arange(len(usage.blocks))
        for shift, (kind, one) in enumerate(found[name].items()):
            panel.bar(
                layers + 0.27 * (shift - 1), one.excess, 0.25, yerr=1.96 * one.error, label=kind, color=_COLOURS[kind],
                error_kw={"elinewidth": 1.0, "ecolor": style.INK},
            )  # fmt: skip
        panel.axhline(0.0, color=style.MUTED, linewidth=0.8)
        panel.set_xticks(layers, [block_label(block).removeprefix("layer ") for block in usage.blocks])
        panel.set(title=name, xlabel="layer", ylabel="bits shared with the expert, less chance")
    panels[0].legend()
    last = panels[-1]
    for index, (name, usage) in enumerate(usages.items()):
        levels = concentration(usage.time_mass.sum(axis=1))
        line = ("-", (0, (4, 2)), (0, (1, 1.5)))[index % 3]
        last.plot(usage.times, levels.mean(axis=0), color=style.INK, linestyle=line, label=f"{name}, mean of layers")
        if index == 0:
            for level in levels:
                last.plot(usage.times, level, color=style.MUTED, linewidth=0.8, alpha=0.6)
    last.set(title="concentration of usage", xlabel="time (1 is noise)", ylabel="1 - entropy / log E")
    last.set_ylim(bottom=0.0)
    last.legend(fontsize=9.5)


def _heat(panel: Axes, table: np.ndarray) -> AxesImage:
    """table: shares [E columns]."""
    drawn = panel.imshow(_doublings(table.T).T, aspect="auto", **_scale())
    panel.set_ylabel("expert")
    panel.grid(False)
    panel.spines[:].set_visible(False)
    return drawn


def _doublings(shares: np.ndarray) -> np.ndarray:
    """log2 of share x number of experts, rows [.. E]."""
    return np.log2(np.clip(shares * shares.shape[-1], 2.0**-_LIMIT, None))


def _scale() -> dict[str, Any]:
    return {"cmap": "PuOr_r", "vmin": -_LIMIT, "vmax": _LIMIT, "interpolation": "nearest"}


def _bar(canvas: Figure, drawn: Any, panels: Any, title: str) -> None:
    bar = canvas.colorbar(drawn, ax=panels, aspect=28, pad=0.01, fraction=0.03)
    ticks = np.arange(-int(_LIMIT), int(_LIMIT) + 1)
    bar.set_ticks(list(ticks), labels=[f"{2.0**tick:.3g}" for tick in ticks])
    bar.set_label("usage, times an even share", fontsize=9)
    bar.outline.set_visible(False)
    if title:
        canvas.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")


def _expert_ticks(panel: Axes, num_experts: int) -> None:
    panel.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(min(num_experts, 8), integer=True))


def _bare(panel: Axes) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(False)
    panel.spines[:].set_visible(False)
