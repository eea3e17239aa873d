"""Low-rank products and FFNs on TPU, their middles in vector memory only. Compiled and interpreted; never timed on a device.

The grid is (items, steps). An item is a tile of rows and one group with rows in it, as for grouped products; its steps are
  'in'      x's depth in tiles:     h = x u            (and the same for a gate)          [rows R]
  'hidden'  the hidden width in tiles: a = act(h v), down += a u2; a product has none     [rows S]
  'out'     the columns in tiles:   out = down v2
so that each factor streams through once per item and neither [M R] nor [M F] is ever written. The block of the output holds
whole rows: a block that is left and come back to would lose what other groups stored in it. Of a tile that groups share
only the pieces of rows that the item reaches into are multiplied.
Ranks that are multiples of 128 spare a copy of the factors: the compiler lays narrower ones out the other way round.
Steps of an item depend on each other and items on the block they share, so one core does them all where chips have two.
Source: ours; FlashSVD (S200) fuses the same chain for one dense layer.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from moejax_kernels import _compat, tpu_memory
from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul import work_items
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.grouped_matmul.pallas_tpu_precision import dot_precision
from moejax_kernels.lowrank_matmul import pallas_tpu_attention, pallas_tpu_tiles
from moejax_kernels.lowrank_matmul.pallas_tpu_tiles import Tiles

Factors = tuple[Array, Array]
attention = pallas_tpu_attention.attention


def product(
    x: Float[Array, "M D"],
    u: Float[Array, "E D R"],
    v: Float[Array, "E R F"],
    group_sizes: Int[Array, "E"],
    *,
    ranks: Int[Array, "E"] | None,
    options: Options,
) -> Float[Array, "M F"]:
    """(x u[e]) v[e]. tiling: (rows, depth, columns). Raises ValueError for one that the chip cannot hold.

    FLOPs: 2 M R (D + F) and those of pieces on borders of groups; ranks below R are not skipped, their zeros are multiplied.
    """
    del ranks
    tiling = None if options.tiling is None else (*options.tiling[:2], 1, *options.tiling[2:])
    return _chain(x, [u], [], None, v, group_sizes, None, tiling, options)


def ffn(
    x: Float[Array, "M D"],
    up: Factors,
    gate: Factors | None,
    down: Factors,
    group_sizes: Int[Array, "E"],
    *,
    ranks: Any,
    activation: str | None,
    options: Options,
) -> Float[Array, "M O"]:
    """activation(x up) down, or (activation(x gate) * (x up)) down. tiling: (rows, depth, hidden, columns). Else as `product`."""
    del ranks
    pairs = [up] if gate is None else [up, gate]
    us, vs = [u for u, _ in pairs], [v for _, v in pairs]
    return _chain(x, us, vs, down[0], down[1], group_sizes, activation, options.tiling, options)


class _Steps(NamedTuple):
    """Steps of each kind that an item has."""

    into: int
    hidden: int
    out: int


def _chain(
    x: Array,
    us: list[Array],
    vs: list[Array],
    middle: Array | None,
    last: Array,
    group_sizes: Array,
    activation: str | None,
    tiling: tuple[int, ...] | None,
    options: Options,
) -> Array:
    (rows, depth), columns = x.shape, last.shape[2]
    hidden = 0 if middle is None else middle.shape[1]
    ranks = (*(u.shape[2] for u in us), last.shape[1])
    tiles = pallas_tpu_tiles.choose(
        (rows, depth, hidden, columns, group_sizes.shape[0]), ranks, (x.dtype, options.dtype), tiling
    )
    steps = _Steps(-(-depth // tiles.depth), -(-hidden // tiles.hidden), -(-columns // tiles.columns))
    items = work_items.product_items(group_sizes, rows, tiles.rows)
    body = functools.partial(
        _kernel,
        inputs=len(us),
        sizes=(depth, hidden),
        tiles=tiles,
        steps=steps,
        activation=activation,
        precision=dot_precision(x.dtype, options.precision),
    )
    operands = (x, *us, *vs, *([] if middle is None else [middle]), last)
    wide = functools.partial(pltpu.VMEM, dtype=jnp.float32)
    flops = 2 * rows * (sum(r * (depth + hidden) for r in ranks[:-1]) + ranks[-1] * (hidden + columns))
    if middle is None:
        flops = 2 * rows * ranks[0] * (depth + columns)
    return pl.pallas_call(
        body,
        out_shape=_compat.output_of((rows, columns), options.dtype, *operands, group_sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(items),
            grid=(items.group.shape[0], sum(steps)),
            in_specs=_in_specs(tiles, steps, [u.shape[2] for u in us], last.shape[1]),
            out_specs=pl.BlockSpec(
                (tiles.rows, steps.out * tiles.columns), lambda i, s, *scalars: (work_items.Items(*scalars).tile[i], 0)
            ),
            scratch_shapes=[
                *(wide((tiles.rows, u.shape[2])) for u in us),
                *(wide((tiles.piece, tiles.hidden)) for _ in vs),
                *([] if middle is None else [wide((tiles.rows, middle.shape[2]))]),
                wide((tiles.piece, tiles.columns)),
            ],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=tpu_memory.request(tiles.vmem)
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in operands) + rows * columns * options.dtype.itemsize,
            transcendentals=0 if activation in (None, "relu") else rows * hidden,
        ),
        interpret=options.interpret,
        name="lowrank_product" if middle is None else "lowrank_ffn",
    )(*items, *operands)


def _in_specs(tiles: Tiles, steps: _Steps, ranks: list[int], last_rank: int) -> list[pl.BlockSpec]:
    """Blocks of x, u of each input, v of each input, u and v of the output. Where a step has no use for one, it stays."""

    def at(step: Array, i: Array, s: work_items.Items, first: int, count: int) -> Array:
        """The tile of an axis that is walked in `count` steps from `first` on; items without work stay at the last."""
        there = jnp.clip(step - first, 0, count - 1)
        return lax.select(i < s.counts[0], there, jnp.full_like(there, count - 1))

    def block(shape: tuple[int | None, ...], index: Any, first: int, count: int) -> pl.BlockSpec:
        def place(i: Array, step: Array, *scalars: Any) -> Any:
            s = work_items.Items(*scalars)
            return index(i, s, at(step, i, s, first, count))

        return pl.BlockSpec(shape, place)

    into, hidden, out = (0, steps.into), (steps.into, steps.hidden), (steps.into + steps.hidden, steps.out)
    specs = [block((tiles.rows, tiles.depth), lambda i, s, t: (s.read[i], t), *into)]
    specs += [block((None, tiles.depth, rank), lambda i, s, t: (s.group[i], t, 0), *into) for rank in ranks]
    if steps.hidden:
        specs += [block((None, rank, tiles.hidden), lambda i, s, t: (s.group[i], 0, t), *hidden) for rank in ranks]
        specs += [block((None, tiles.hidden, last_rank), lambda i, s, t: (s.group[i], t, 0), *hidden)]
    return [*specs, block((None, last_rank, tiles.columns), lambda i, s, t: (s.group[i], 0, t), *out)]


def _kernel(
    *refs: Any,
    inputs: int,
    sizes: tuple[int, int],
    tiles: Tiles,
    steps: _Steps,
    activation: str | None,
    precision: Any,
) -> None:
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
            a, b = (_inside(block, axis, limit[0] * size + start, limit[1]) for block, axis in ((a, 1), (b, 0)))
        new = jnp.logical_and(begins, start == 0)
        kept = jnp.where(new, jnp.zeros((), jnp.float32), total[at, :])
        total[at, :] = kept + jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

    work_items.over_chunks(add, size, chunk)


def _inside(block: Array, axis: int, first: Any, length: int) -> Array:
    inside = first + lax.broadcasted_iota(jnp.int32, block.shape, axis) < length
    return jnp.where(inside, block.astype(jnp.float32), jnp.zeros((), jnp.float32)).astype(block.dtype)
