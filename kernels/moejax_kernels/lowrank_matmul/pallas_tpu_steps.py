"""What one step of a low-rank kernel on TPU does; which steps there are: `pallas_tpu`.

Source: ours.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul import work_items
from moejax_kernels.lowrank_matmul.pallas_tpu_tiles import Tiles


class Steps(NamedTuple):
    """Steps of each kind that an item has."""

    into: int
    hidden: int
    out: int


def kernel(
    *refs: Any,
    inputs: int,
    sizes: tuple[int, int],
    tiles: Tiles,
    steps: Steps,
    activation: str | None,
    precision: Any,
) -> None:
    """A step of an item: refs are the items, operands in the order of `pallas_tpu`, the output and the sums."""
    items, (x, *rest) = work_items.Items(*refs[:6]), refs[6:]
    take = iter(rest)
    count = inputs if steps.hidden else 0
    us, vs = ([next(take) for _ in range(n)] for n in (inputs, count))
    middle = next(take) if count else None
    last, out = next(take), next(take)
    into_sums, hidden_sums = ([next(take) for _ in range(n)] for n in (inputs, count))
    down = next(take) if count else into_sums[0]
    value = next(take)
    i, step = pl.program_id(0), pl.program_id(1)
    low, high = work_items.rows_in_tile(items, i, tiles.rows)
    multiply = functools.partial(_multiply, chunk=tiles.chunk, precision=precision)

    def into(start: Any, rows: int, whole: bool) -> None:
        at = pl.ds(start, rows)
        for u, total in zip(us, into_sums):
            multiply(lambda c: x[at, c], u, total, at, size=tiles.depth, begins=step == 0, limit=(step, sizes[0]))

    def hide(start: Any, rows: int, whole: bool) -> None:
        at, all_rows = pl.ds(start, rows), pl.ds(0, rows)
        for h, v, total in zip(into_sums, vs, hidden_sums):
            multiply(lambda c, h=h: h[at, c].astype(x.dtype), v, total, all_rows, size=h.shape[1], begins=True)

        def activated(c: Any) -> Array:
            first, *more = [total[all_rows, c] for total in reversed(hidden_sums)]  # the gate is last, and activated
            a = activate(first, activation)
            return (a * more[0] if more else a).astype(x.dtype)

        tile = step - steps.into
        multiply(activated, middle, down, at, size=tiles.hidden, begins=tile == 0, limit=(tile, sizes[1]))

    def leave(start: Any, rows: int, whole: bool) -> None:
        at, all_rows = pl.ds(start, rows), pl.ds(0, rows)
        multiply(lambda c: down[at, c].astype(x.dtype), last, value, all_rows, size=down.shape[1], begins=True)
        keep(start, rows, value[all_rows, :])

    def clear(start: Any, rows: int, whole: bool) -> None:
        keep(start, rows, jnp.zeros((rows, tiles.columns), jnp.float32))

    def keep(start: Any, rows: int, found: Array) -> None:
        tile = step - steps.into - steps.hidden
        first = 0 if steps.out == 1 else pl.multiple_of(tile * tiles.columns, tiles.columns)
        there = (pl.ds(start, rows), pl.ds(first, tiles.columns))
        mine = work_items.mine(start, rows, low, high)
        out[there] = jnp.where(mine, found, out[there].astype(jnp.float32)).astype(out.dtype)

    pieces = functools.partial(
        work_items.over_pieces, low=low, high=high, rows=tiles.rows, body=tiles.piece, piece=tiles.piece
    )
    works, leaving = i < items.counts[0], step >= steps.into + steps.hidden
    pieces(into, when=works & (step < steps.into))
    if count:
        pieces(hide, when=works & (step >= steps.into) & jnp.logical_not(leaving))
    pieces(leave, when=works & leaving)
    pieces(clear, when=(i >= items.counts[0]) & (i < items.counts[1]) & leaving)


def _multiply(
    left: Any,
    right: Any,
    total: Any,
    at: Any,
    *,
    size: int,
    begins: Any,
    chunk: int,
    precision: jax.lax.Precision,
    limit: tuple[Any, int] | None = None,
) -> None:
    """total[at] (+)= left right over an axis of `size` in chunks. limit: (tile, length) where tiles may run past the axis."""

    def add(start: Any, width: int) -> None:
        there = pl.ds(start, width)
        a, b = left(there), right[there, :]
        if limit is not None and limit[1] % size:
            a, b = (
                work_items.inside(block, axis, limit[0] * size + start, limit[1]) for block, axis in ((a, 1), (b, 0))
            )
        new = jnp.logical_and(begins, start == 0)
        kept = jnp.where(new, jnp.zeros((), jnp.float32), total[at, :])
        total[at, :] = kept + jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

    work_items.over_chunks(add, size, chunk)
