"""Attention from rank space on TPU: tiles of q, k and v are rebuilt on chip. Compiled and interpreted; never timed on a device.

The grid is (batch, heads, tiles of queries, tiles of keys). A tile of queries is rebuilt once and kept while the keys pass;
tiles of keys and values are rebuilt from their rank-space tokens for every tile of queries, which is what not storing them
costs. Neither a projection nor a matrix of scores is written.
Source: FlashSVD, the attention kernel; online softmax: Milakov and Gimelshein 2018, algorithm 3.
Deviations: heads stand before tokens in what the kernel writes, and are put back after it.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from moejax_kernels import _compat, tpu_memory
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.grouped_matmul.pallas_tpu_precision import dot_precision
from moejax_kernels.platforms import target

LARGEST = (512, 512)  # queries, keys
FAR_BELOW = -1e30  # a score that is not seen: minus infinity would turn differences into NaN


def attention(
    tokens: tuple[Array, Array, Array], factors: tuple[Array, Array, Array], *, causal: bool, options: Options
) -> tuple[Float[Array, "B T width"], Float[Array, "B H T"]]:
    """Attention output and log-sum-exp of scores; tokens [B T R] and factors [H R K], [H R K], [H R N].

    tiling: (queries, keys). Raises ValueError for one that the chip cannot hold. FLOPs per head: 4 T^2 K and, for each tile
    of queries, 2 T (R_k K + R_v N) to rebuild keys and values.
    """
    (batch, length, _), (heads, _, width) = tokens[0].shape, factors[2].shape
    queries, keys, vmem = _tiles(tokens, factors, options)
    grid = (batch, heads, -(-length // queries), -(-length // keys))
    body = functools.partial(
        _kernel, length=length, causal=causal, precision=dot_precision(tokens[0].dtype, options.precision)
    )

    def key_tile(q: Array, k: Array) -> Any:
        """Tiles of keys after the queries are not seen: the last one that is stays, and nothing moves."""
        return jnp.minimum(k, ((q + 1) * queries - 1) // keys) if causal else k

    def whole(factor: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *factor.shape[1:]), lambda b, h, q, k: (h, 0, 0))

    out, logsumexp = pl.pallas_call(
        body,
        out_shape=(
            _compat.output_of((batch, heads, length, width), options.dtype, *tokens, *factors),
            _compat.output_of((batch, heads, length, 1), jnp.float32, *tokens, *factors),
        ),
        grid=grid,
        in_specs=[
            pl.BlockSpec((None, queries, tokens[0].shape[2]), lambda b, h, q, k: (b, q, 0)),
            pl.BlockSpec((None, keys, tokens[1].shape[2]), lambda b, h, q, k: (b, key_tile(q, k), 0)),
            pl.BlockSpec((None, keys, tokens[2].shape[2]), lambda b, h, q, k: (b, key_tile(q, k), 0)),
            *(whole(factor) for factor in factors),
        ],
        out_specs=(
            pl.BlockSpec((None, None, queries, width), lambda b, h, q, k: (b, h, q, 0)),
            pl.BlockSpec((None, None, queries, 1), lambda b, h, q, k: (b, h, q, 0)),
        ),
        scratch_shapes=[
            pltpu.VMEM((queries, factors[0].shape[2]), tokens[0].dtype),
            pltpu.VMEM((queries, 1), jnp.float32),
            pltpu.VMEM((queries, 1), jnp.float32),
            pltpu.VMEM((queries, width), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=tpu_memory.request(vmem),
        ),
        cost_estimate=_cost(tokens, factors, grid, options),
        interpret=options.interpret,
        name="lowrank_attention",
    )(*tokens, *factors)
    return out.swapaxes(1, 2).reshape(batch, length, heads * width), logsumexp[..., 0]


def _kernel(
    query: Any,
    key: Any,
    value: Any,
    query_factor: Any,
    key_factor: Any,
    value_factor: Any,
    out: Any,
    logsumexp: Any,
    q: Any,
    top: Any,
    weight: Any,
    total: Any,
    *,
    length: int,
    causal: bool,
    precision: Any,
) -> None:
    tile, k = pl.program_id(2), pl.program_id(3)
    queries, keys = q.shape[0], key.shape[0]
    dot = functools.partial(lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    plain, turned = (((1,), (0,)), ((), ())), (((1,), (1,)), ((), ()))
    scale = 1 / math.sqrt(q.shape[1])

    @pl.when(k == 0)
    def _() -> None:
        q[...] = dot(query[...], query_factor[...], plain).astype(q.dtype)
        top[...] = jnp.full(top.shape, FAR_BELOW, jnp.float32)
        weight[...] = jnp.zeros(weight.shape, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)

    def add() -> None:
        rebuilt = dot(key[...], key_factor[...], plain).astype(q.dtype)
        scores = dot(q[...], rebuilt, turned) * jnp.float32(scale)
        column = k * keys + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        seen = column < length
        if causal:
            seen = seen & (column <= tile * queries + lax.broadcasted_iota(jnp.int32, scores.shape, 0))
        scores = jnp.where(seen, scores, jnp.float32(FAR_BELOW))
        new_top = jnp.maximum(top[...], jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - new_top), jnp.float32(0))
        fade = jnp.exp(top[...] - new_top)
        values = dot(value[...], value_factor[...], plain)
        row = k * keys + lax.broadcasted_iota(jnp.int32, values.shape, 0)
        values = jnp.where(row < length, values, jnp.float32(0)).astype(q.dtype)
        weight[...] = fade * weight[...] + jnp.sum(weights, axis=1, keepdims=True)
        total[...] = fade * total[...] + dot(weights.astype(q.dtype), values, plain)
        top[...] = new_top

    pl.when(k * keys < (tile + 1) * queries)(add) if causal else add()

    @pl.when(k == pl.num_programs(3) - 1)
    def _() -> None:
        out[...] = (total[...] / weight[...]).astype(out.dtype)
        logsumexp[...] = top[...] + jnp.log(weight[...])


def _tiles(tokens: tuple[Array, ...], factors: tuple[Array, ...], options: Options) -> tuple[int, int, int]:
    length, dtype = tokens[0].shape[1], tokens[0].dtype
    unit = tpu_memory.sublanes(dtype)
    if options.tiling is not None and (len(options.tiling) != 2 or min(options.tiling) < 1):
        raise ValueError(f"tiling={options.tiling} must be two positive sizes: (queries, keys).")
    queries, keys = (
        min(tpu_memory.round_up(t, unit), tpu_memory.round_up(length, unit)) for t in options.tiling or LARGEST
    )

    def need(tiles: tuple[int, ...]) -> int:
        queries, keys = tiles
        (_, _, k_width), (_, _, width) = factors[0].shape, factors[2].shape
        streamed: list[Any] = [
            ((queries, tokens[0].shape[2]), dtype),
            ((queries, width), options.dtype),
            ((queries, 1), jnp.float32),
        ]
        streamed += [((keys, t.shape[2]), dtype) for t in tokens[1:]] + [(f.shape[1:], dtype) for f in factors]
        kept: list[Any] = [
            ((queries, k_width), dtype),
            *[((queries, 1), jnp.float32)] * 2,
            ((queries, width), jnp.float32),
        ]
        # Scores and weights of a tile, and its keys and values, are values of the kernel, too large for registers.
        kept += [((queries, keys), jnp.float32)] * 2 + [((keys, w), jnp.float32) for w in (k_width, width)]
        return tpu_memory.kernel_bytes(streamed, kept)

    held = tpu_memory.chip(target())
    tiles = (queries, keys) if options.tiling is not None else tpu_memory.shrunk((queries, keys), need, held)
    return tiles[0], tiles[1], tpu_memory.check_fits("low-rank attention", tiles, need, held)


def _cost(
    tokens: tuple[Array, ...], factors: tuple[Array, ...], grid: tuple[int, ...], options: Options
) -> pl.CostEstimate:
    (batch, length, _), (heads, _, width) = tokens[0].shape, factors[2].shape
    k_width = factors[0].shape[2]
    rebuilt = [t.shape[2] * f.shape[2] * n for t, f, n in zip(tokens, factors, (1, grid[2], grid[2]))]
    moved = [t.size * n for t, n in zip(tokens, (heads, heads * grid[2], heads * grid[2]))]
    size = tokens[0].dtype.itemsize
    return pl.CostEstimate(
        flops=2 * batch * heads * length * (sum(rebuilt) + length * (k_width + width)),
        bytes_accessed=sum(moved) * size + batch * heads * length * width * options.dtype.itemsize,
        transcendentals=batch * heads * length * length,
    )
