"""Statistics that a method can trust: complete, of the weight's shape, finite, and of enough rows for the rank.

Source: ours.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from moejax.compress.statistics import KINDS, LeafStatistics, Statistics
from moejax.compress.weights import Weight
from moejax.core.errors import SpecError, did_you_mean

# Axes of each field; N is free.
_AXES = {
    "count": "", "second_moment": "DD", "absolute": "D", "output_sum": "F", "output_square": "F", "rows": "ND",
    "examples": "", "fisher": "DF", "fisher_rows": "D", "kronecker_in": "DD", "kronecker_out": "FF",
}  # fmt: skip


def check(weight: Weight, statistics: Statistics | None, kinds: Sequence[str], *, who: str) -> LeafStatistics | None:
    """The statistics of this weight with the fields of `kinds`; None where none are needed.

    Raises SpecError naming the weight: no entry for it, a kind that was not collected, a field of another shape, NaN or
    infinity.
    """
    if not kinds:
        return None
    own = (statistics or {}).get(weight.name)
    if own is None:
        raise SpecError(
            f"{who} needs the statistics {', '.join(kinds)} of {weight.name!r}, but they have no such entry."
            + did_you_mean(weight.name, statistics or {})
        )
    for kind in kinds:
        for field in KINDS[kind]:
            _check_field(weight, own, field, kind=kind, who=who)
    return own


def check_all(weight: Weight, own: LeafStatistics) -> None:
    """Shape and finiteness of every field that is there. Raises SpecError naming the weight."""
    for field in _AXES:
        if getattr(own, field) is not None:
            _check_field(weight, own, field, kind=field, who="this method")


def warn_of_few_rows(weight: Weight, own: LeafStatistics | None, ranks: Sequence[int | None]) -> str | None:
    """Warns when a matrix was given fewer calibration rows than its rank; returns what it said."""
    if own is None or own.count is None:
        return None
    counts = np.broadcast_to(np.asarray(own.count, np.float64), (len(ranks),))
    few = [e for e, rank in enumerate(ranks) if rank is not None and counts[e] < rank]
    if not few:
        return None
    worst = min(few, key=lambda e: counts[e])
    who = f"{weight.name}, expert {worst}" if len(weight.shape) == 3 else weight.name
    others = f" ({len(few)} of {len(ranks)} experts have too few)" if len(weight.shape) == 3 else ""
    text = (
        f"{who}: {counts[worst]:.0f} calibration rows for rank {ranks[worst]}{others}; what they do not reach is chosen by the "
        "plain norm. Collect at least as many rows as the rank, better ten times as many."
    )
    warnings.warn(text, UserWarning, stacklevel=3)
    return text


def _check_field(weight: Weight, own: LeafStatistics, field: str, *, kind: str, who: str) -> None:
    value = getattr(own, field)
    if value is None:
        raise SpecError(
            f"{who} needs the statistics {kind!r} of {weight.name!r}, but {field!r} was not collected; collect that kind, too."
        )
    sizes = dict(zip("DF", weight.shape[-2:], strict=True))
    lead = weight.shape[:-2]
    axes = _AXES[field]
    found = tuple(np.shape(value))
    wanted = (*lead, *(sizes.get(axis, found[-2] if len(found) > 1 else 0) for axis in axes))
    if found != wanted:
        raise SpecError(
            f"statistics of {weight.name!r}: {field} has shape {found}, but the weight of shape {weight.shape} needs "
            f"{wanted}; they were collected on another model, or under another name."
        )
    for index in range(lead[0]) if lead else (None,):
        part = value if index is None else value[index]
        if not np.all(np.isfinite(np.asarray(part))):
            where = "" if index is None else f" of expert {index}"
            raise SpecError(
                f"statistics of {weight.name!r}: {field}{where} holds NaN or infinite values; look for the calibration batch "
                "or the layer that overflows, and collect again."
            )
