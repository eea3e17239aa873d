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
Source: ours; FlashSVD fuses the same chain for one dense layer.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from moejax_kernels import _compat, tpu_memory
from moejax_kernels.grouped_matmul import work_items
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.grouped_matmul.pallas_tpu_precision import dot_precision
from moejax_kernels.lowrank_matmul import pallas_tpu_attention, pallas_tpu_tiles
from moejax_kernels.lowrank_matmul.pallas_tpu_steps import Steps, kernel
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
) -> Float[Array, "M D2"]:
    """activation(x up) down, or (activation(x gate) * (x up)) down. tiling: (rows, depth, hidden, columns). Else as `product`."""
    del ranks
    pairs = [up] if gate is None else [up, gate]
    us, vs = [u for u, _ in pairs], [v for _, v in pairs]
    return _chain(x, us, vs, down[0], down[1], group_sizes, activation, options.tiling, options)


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
    steps = Steps(-(-depth // tiles.depth), -(-hidden // tiles.hidden), -(-columns // tiles.columns))
    items = work_items.product_items(group_sizes, rows, tiles.rows)
    body = functools.partial(
        kernel,
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


def _in_specs(tiles: Tiles, steps: Steps, ranks: list[int], last_rank: int) -> list[pl.BlockSpec]:
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
