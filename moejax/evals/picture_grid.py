"""Rows of pictures with the names of their rows, and the way from noise to picture as an animation. Source: ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

COLOURS = 32  # of a frame of an animation
GAP = 2  # white pixels between pictures


def tile(
    pictures: UInt8[np.ndarray, "M height width channels"], columns: int
) -> UInt8[np.ndarray, "rows_px columns_px 3"]:
    """Pictures row by row, with white between them; grey ones become coloured ones."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = np.broadcast_to(picture, (height, width, 3))
    return sheet


def grid_figure(
    pictures: UInt8[np.ndarray, "M height width channels"], columns: int, names: Sequence[str], *, title: str = ""
) -> Any:
    """A matplotlib figure with one named row for every `columns` pictures."""
    from matplotlib.figure import Figure

    rows = len(names)
    figure = Figure(figsize=(columns * 0.62 + 1.6, rows * 0.62 + (0.5 if title else 0.1)), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for row, (axis, name) in enumerate(zip(axes, names, strict=True)):
        axis.imshow(tile(pictures[row * columns : (row + 1) * columns], columns), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def write_animation(
    frames: UInt8[np.ndarray, "N M height width channels"], path: str | Path, *, columns: int, zoom: int = 2, seconds: float = 3.0,
) -> None:  # fmt: skip
    """A GIF that plays for `seconds`, holds its last frame as long as half of that, and starts again.

    frames: all pictures at every step. zoom: screen pixels per pixel.
    """
    from PIL import Image

    sheets = [Image.fromarray(tile(frame, columns).repeat(zoom, 0).repeat(zoom, 1)) for frame in frames]
    sheets = [sheet.quantize(COLOURS) for sheet in sheets]  # noise in all colours would take megabytes
    each = max(round(1000 * seconds / len(sheets)), 20)  # milliseconds; viewers slow down what is faster
    durations = [each] * (len(sheets) - 1) + [max(round(500 * seconds), each)]
    sheets[0].save(path, save_all=True, append_images=sheets[1:], duration=durations, loop=0)
