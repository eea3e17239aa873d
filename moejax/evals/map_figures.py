"""Figures of pictures: samples of the data, expert maps over pictures, and what slots look at."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moejax.core.errors import SpecError
from moejax.evals import figure_style as style
from moejax.evals.expert_maps import ExpertMaps, overlay, upscale
from moejax.evals.routing_figures import block_label


@dataclasses.dataclass(frozen=True)
class MapSheet:
    """One model's maps of the same pictures. titles: class names. slots: [picture, slot, h, w] of the last layer, or None."""

    model: str
    images: np.ndarray
    titles: Sequence[str]
    layers: Mapping[str, ExpertMaps]
    slots: np.ndarray | None = None
    slot_names: Sequence[str] = ()


def to_uint8(images: np.ndarray, value_range: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Pictures in bytes, grey ones with three equal channels."""
    if images.dtype != np.uint8:
        low, high = value_range
        images = np.clip(np.rint(255.0 * (images - low) / (high - low)), 0, 255).astype(np.uint8)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def map_sheet_size(sheet: MapSheet) -> tuple[float, float]:
    """Inches that `draw_map_sheet` needs."""
    columns = len(sheet.images)
    return 1.05 * columns + 0.7, 1.12 * (len(sheet.layers) + 1) + 0.95


def draw_map_sheet(canvas: Figure, sheet: MapSheet) -> None:
    """First row the pictures, then a row per layer with a colour per patch: the expert that processed it."""
    panels = canvas.subplots(len(sheet.layers) + 1, len(sheet.images), squeeze=False)
    for column, image in enumerate(sheet.images):
        _show(panels[0][column], upscale(image, 8))
        panels[0][column].set_title(_short(sheet.titles[column]), fontsize=10, fontweight="normal", loc="center", pad=4)
    experts = max(maps.num_experts for maps in sheet.layers.values())
    colours = style.expert_colours(experts)
    dropped = False
    for row, (block, maps) in zip(panels[1:], sheet.layers.items(), strict=True):
        full = float(np.quantile(maps.weight, 0.95)) or 1.0
        for column, panel in enumerate(row):
            _number(panel, maps.expert[column], sheet.images[column].shape[0] * 8)
            _show(
                panel,
                overlay(sheet.images[column], maps.expert[column], maps.weight[column], colours, full_weight=full),
            )
        row[0].set_ylabel(block_label(block), fontsize=10)
        dropped |= bool((maps.expert < 0).any())
    panels[0][0].set_ylabel("picture", fontsize=10)
    mixed = any(maps.kind == "mixed" for maps in sheet.layers.values())
    if experts <= 32:
        handles = [Patch(facecolor=c / 255.0) for c in colours]
        names = [str(e) for e in range(experts)]
        if dropped:
            handles.append(Patch(facecolor="#cdcdcd", edgecolor="#5a5a5a", hatch="////"))
            names.append("no expert")
        title = (
            "expert with the largest combine weight" if mixed else "expert that processed the patch (largest weight)"
        )
        canvas.legend(
            handles, names, loc="outside lower center", ncols=min(len(names), 17), title=title, title_fontsize=10,
            fontsize=9.5, handlelength=1.1, handleheight=1.1, columnspacing=1.1, handletextpad=0.4,
        )  # fmt: skip


def draw_slots(canvas: Figure, sheet: MapSheet) -> None:
    """Dispatch weights of a few slots of the last layer: a row per slot, relative to an even share of all patches."""
    if sheet.slots is None:
        raise SpecError(f"{sheet.model} has no slots to draw.")
    count = sheet.slots.shape[1]
    panels = canvas.subplots(count + 1, len(sheet.images), squeeze=False)
    for column, image in enumerate(sheet.images):
        _show(panels[0][column], upscale(image, 8))
        panels[0][column].set_title(_short(sheet.titles[column]), fontsize=10, fontweight="normal", loc="center", pad=4)
    patches = sheet.slots.shape[-1] * sheet.slots.shape[-2]
    doublings = np.log2(np.maximum(sheet.slots * patches, 1e-6))  # 0: the patch has an even share of the slot
    limit = float(np.clip(np.quantile(np.abs(doublings), 0.98), 0.5, 4.0))
    drawn = None
    for index in range(count):
        for column in range(len(sheet.images)):
            panel = panels[index + 1][column]
            drawn = panel.imshow(
                doublings[column, index], cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest"
            )
            _bare(panel)
        panels[index + 1][0].set_ylabel(sheet.slot_names[index], fontsize=9)
    panels[0][0].set_ylabel("picture", fontsize=10)
    if drawn is not None:
        bar = canvas.colorbar(drawn, ax=panels[1:, :], aspect=28, pad=0.01, fraction=0.02)
        bar.set_label("weight, times an even share", fontsize=9)
        whole = 1 if limit < 2 else 2
        ticks = np.arange(-int(limit / (whole / 2)) * whole / 2, limit + 1e-6, whole / 2)
        bar.set_ticks(list(ticks), labels=[f"{2.0**tick:.2g}" for tick in ticks])
        bar.outline.set_visible(False)


def draw_samples(canvas: Figure, groups: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> None:
    """Pictures of every domain in two rows, each with its class. groups: domain -> (pictures, class names)."""
    columns = max(-(-len(images) // 2) for images, _ in groups.values())
    bands = canvas.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for part, (domain, (images, names)) in zip(bands, groups.items(), strict=True):
        panels = part.subplots(2, columns)
        part.suptitle(domain, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        for panel in panels.ravel():
            panel.set_axis_off()
        for i, (image, name) in enumerate(zip(images, names, strict=True)):
            panel = panels.ravel()[i]
            panel.imshow(upscale(image, 4), interpolation="nearest")
            panel.set_title(_short(name), fontsize=8.5, fontweight="normal", loc="center", pad=3)


def _show(panel: Axes, image: np.ndarray) -> None:
    panel.imshow(image, interpolation="nearest")
    _bare(panel)


def _number(panel: Axes, expert: np.ndarray, size: int) -> None:
    """The expert's number in the corner of every patch, where patches are large enough: colour is not the only sign."""
    rows = expert.shape[0]
    if rows > 6:
        return
    edge = size / rows
    outline = [patheffects.withStroke(linewidth=1.4, foreground="#00000099")]
    for (y, x), value in np.ndenumerate(expert):
        if value >= 0:
            panel.text(
                (x + 0.1) * edge, (y + 0.1) * edge, str(value), fontsize=6, color="white", va="top", ha="left",
                path_effects=outline,
            )  # fmt: skip


def _bare(panel: Axes) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(False)
    panel.spines[:].set_visible(False)


def _short(name: str, limit: int = 12) -> str:
    return name if len(name) <= limit else name[: limit - 1].rstrip(" _-&") + "…"
