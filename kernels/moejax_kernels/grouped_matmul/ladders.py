"""Sizes of the blocks that `xla` multiplies: a ladder per mean number of rows of a group, measured on a CPU."""

import functools
import importlib.resources
import json


def ladder_for(rows: int, groups: int, tiling: tuple[int, ...] | None) -> tuple[int, ...]:
    """Sizes in rising order, none above `rows`; `tiling` instead of the table where it is given.

    The table tuned/cpu.json (made by kernels/bench/tune.py) has a ladder for some mean numbers of rows per group; the
    nearest is taken. Raises ValueError for a tiling with a size below 1. Source: ours.
    """
    if tiling is None:
        table = measured_ladders()
        mean = rows / groups
        tiling = table[min(table, key=lambda size: max(size / max(mean, 1e-9), mean / size))]
        if groups == 1:  # all rows in one block, where they are all the group's
            tiling = (*tiling, rows)
    return steps_within(rows, tiling)


def steps_within(rows: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes in rising order, each once, none above `rows`. Raises ValueError for a size below 1. Source: ours."""
    if min(sizes, default=0) < 1:
        raise ValueError(f"tiling={sizes!r}: 'xla' takes the sizes of blocks of rows, each at least 1.")
    return tuple(sorted({min(size, max(rows, 1)) for size in sizes}))


@functools.cache
def measured_ladders() -> dict[int, tuple[int, ...]]:
    """Mean rows of a group -> ladder, as packaged. Source: ours."""
    text = (importlib.resources.files(__package__) / "tuned" / "cpu.json").read_text()
    return {int(size): tuple(ladder) for size, ladder in json.loads(text)["ladders"].items()}
