"""A contact sheet: one row of example pictures for every class of a data set. Source: ours."""

from typing import Any

import numpy as np


def contact_sheet(dataset: Any, *, split: str = "train", columns: int = 12, domain: str | None = None) -> Any:
    """A matplotlib figure with `columns` pictures of every class (of one domain), evenly spread over the split.

    dataset: a `moejax.data.Dataset`. Rows are labelled with the class, and grouped by domain.
    """
    from matplotlib.figure import Figure

    images, labels = dataset.examples(split)
    info = dataset.info
    classes = [
        c for c in range(info.num_classes) if domain is None or info.domain_names[info.class_domains[c]] == domain
    ]
    rows = [_row(images, labels, label, columns) for label in classes]
    height, width = rows[0].shape[0], rows[0].shape[1]
    figure = Figure(figsize=(columns * 0.42 + 1.8, len(rows) * 0.42 + 0.2), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, row, label in zip(axes, rows, classes, strict=True):
        axis.imshow(row, interpolation="nearest", extent=(0, width, height, 0))
        axis.set_ylabel(info.class_names[label], rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    return figure


def _row(images: np.ndarray, labels: np.ndarray, label: int, columns: int) -> np.ndarray:
    """uint8 [h columns*(w+2) 3]: pictures side by side with 2 white pixels between; white where there are too few."""
    members = np.flatnonzero(labels == label)
    chosen = members[np.arange(min(columns, len(members))) * len(members) // max(1, min(columns, len(members)))]
    height, width = images.shape[1:3]
    row = np.full((height, columns * (width + 2) - 2, 3), 255, np.uint8)
    for position, index in enumerate(chosen):
        left = position * (width + 2)
        row[:, left : left + width] = images[index]
    return row
