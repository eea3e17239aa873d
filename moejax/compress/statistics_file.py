"""Statistics on disk: one safetensors file, which holds arrays and a description as JSON and nothing that runs.

Source: ours.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moejax.compress.observed_params import weights_in
from moejax.compress.statistics import LeafStatistics, Statistics
from moejax.core.errors import SpecError, did_you_mean

_FORMAT = "moejax compression statistics, version 1"
# Axes of every field behind those that the weight has in front: D and F are those of the kernel, N any number.
_AXES = {
    "count": "", "examples": "", "absolute": "D", "fisher_rows": "D", "output_sum": "F", "output_square": "F",
    "second_moment": "DD", "kronecker_in": "DD", "kronecker_out": "FF", "fisher": "DF", "rows": "ND",
}  # fmt: skip


def save(path: str | pathlib.Path, statistics: Statistics, *, report: Mapping[str, Any] | None = None) -> None:
    """Writes them, whole or not at all. report: JSON-able, what is known about their origin."""
    arrays = {f"{name}/{field}": value for name, own in statistics.items() for field, value in _fields(own).items()}
    described = {"shapes": {name: list(value.shape) for name, value in arrays.items()}, "report": dict(report or {})}
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(arrays, partial, metadata={"format": _FORMAT, "moejax": json.dumps(described)})
    partial.replace(path)


def load(path: str | pathlib.Path, params: Any = None) -> tuple[dict[str, LeafStatistics], dict[str, Any]]:
    """(statistics, report). params: a tree that they must fit, see `check_fits`.

    Raises SpecError for a file of another format, one whose arrays are not those that it describes, and as `check_fits`.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"{path} cannot be read as statistics ({type(error).__name__}: {error}).") from error
    if metadata.get("format") != _FORMAT:
        raise SpecError(f"{path} holds {metadata.get('format')!r}, not {_FORMAT!r}; collect the statistics again.")
    described = json.loads(metadata["moejax"])
    shapes = {name: list(value.shape) for name, value in arrays.items()}
    if shapes != described["shapes"]:
        wrong = sorted(
            n for n in shapes.keys() | described["shapes"].keys() if shapes.get(n) != described["shapes"].get(n)
        )
        raise SpecError(f"{path} is damaged: {wrong[0]} is not as described; collect the statistics again.")
    nested: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        name, _, field = key.rpartition("/")
        nested.setdefault(name, {})[field] = value
    statistics = {name: LeafStatistics(**own) for name, own in nested.items()}
    if params is not None:
        check_fits(statistics, params)
    return statistics, described["report"]


def check_fits(statistics: Statistics, params: Any) -> None:
    """Raises SpecError naming the weight that `params` lacks, or whose shape is another. Routers are not checked."""
    weights = weights_in(params, None, arrays=True)
    for name, own in statistics.items():
        if name.rpartition("/")[2] == "router":
            continue
        if name not in weights:
            raise SpecError(
                f"the statistics of {name!r} belong to no weight of these parameters.{did_you_mean(name, weights)}"
            )
        *leading, depth, width = weights[name]
        for field, value in _fields(own).items():
            sizes = {"D": depth, "F": width, "N": value.shape[-2] if field == "rows" else 0}
            expected = (*leading, *(sizes[axis] for axis in _AXES[field]))
            if value.shape != expected:
                raise SpecError(
                    f"{name}: the statistics hold {field} {value.shape}, and a weight {weights[name]} needs {expected}; "
                    "collect them for these parameters."
                )


def _fields(statistics: LeafStatistics) -> dict[str, np.ndarray]:
    values = {field.name: getattr(statistics, field.name) for field in dataclasses.fields(statistics)}
    return {name: np.asarray(value, order="C") for name, value in values.items() if value is not None}
