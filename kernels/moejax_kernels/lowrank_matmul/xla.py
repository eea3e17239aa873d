"""Low-rank products from plain XLA operations, fused by blocks of rows: what lies between x and the result is [block, R] or
[block, F] and never reaches the size of the operands. The cost does not grow with the number of groups.

A loop over groups takes each group's rows in large blocks, and what is left in one smaller block that holds it; rows of that
one that are not the group's keep what the output has. The backward pass goes over the same blocks, computes the middle again
and sums the gradients of a group's factors over its blocks. Where ranks are given, a group's products are cut to the quarter,
half or whole of the stored components that holds its rank.
Source: ours.
Deviations: forward-mode differentiation is not defined, as for every `jax.custom_vjp`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.lowrank_matmul.backward import join
from moejax_kernels.lowrank_matmul.xla_attention import attention, attention_backward
from moejax_kernels.manual_axes import vary_like

__all__ = ["attention", "attention_backward", "ffn", "ffn_backward", "product"]

ROW_BLOCKS = (256, 192, 128, 96, 64, 32, 16)  # rows of a block, largest first
RANK_PARTS = (4, 2, 1)  # a group's products take R over one of these, least first

Factors = tuple[Array, Array]
Pairs = tuple[Factors | None, ...]
# (carry, a group's factors, first row of a block, its rows, which of them are the group's or None for all) -> carry
Step = Callable[[Any, Any, Array, int, Array | None], Any]


def product(x: Array, u: Array, v: Array, group_sizes: Array, *, ranks: Array | None, options: Options) -> Array:
    """As `gradients.py` asks."""

    def compute(rows: Array, factors: Any) -> Array:
        return _through(rows, factors[0], options)

    return _by_rows(x, ((u, v),), group_sizes, (ranks,), v.shape[2], options, compute)


def ffn(
    x: Array,
    up: Factors,
    gate: Factors | None,
    down: Factors,
    group_sizes: Array,
    *,
    ranks: Any,
    activation: str | None,
    options: Options,
) -> Array:
    """As `gradients.py` asks: [block, F] is the widest that is held."""

    def compute(rows: Array, factors: Any) -> Array:
        up, gate, down = factors
        value = _through(rows, up, options)
        gated = None if gate is None else _through(rows, gate, options)
        return _through(join(value, gated, activation).astype(x.dtype), down, options)

    return _by_rows(x, (up, gate, down), group_sizes, ranks, down[1].shape[2], options, compute)


def ffn_backward(
    x: Array,
    dy: Array,
    up: Factors,
    gate: Factors | None,
    down: Factors,
    group_sizes: Array,
    *,
    ranks: Any,
    activation: str | None,
    options: Options,
) -> tuple[Array, Factors, Factors | None, Factors]:
    """As `gradients.py` asks: one pass over the blocks, each of which computes its part of the forward pass again."""
    wide = accumulator_of(x.dtype)

    def step(carry: Any, factors: Any, at: Array, block: int, mine: Array | None) -> Any:
        dx, sums = carry
        x_block, dy_block = (lax.dynamic_slice_in_dim(a, at, block) for a in (x, dy))
        if mine is not None:  # on both sides: zero times what another row holds could be NaN
            x_block, dy_block = (jnp.where(mine, a, jnp.zeros((), a.dtype)) for a in (x_block, dy_block))
        part, found = _block_backward(x_block, dy_block, factors, activation, options)
        return _write(dx, part, at, mine), jax.tree.map(_add_corner, sums, found)

    def one_group(dx: Array, group: Any) -> tuple[Array, Any]:
        factors = group[0]
        sums = vary_like(jax.tree.map(lambda factor: jnp.zeros(factor.shape, wide), factors), x)
        dx, sums = _over_group((dx, sums), group, ranks, _blocks(options, x.shape[0]), x.shape[0], step)
        return dx, jax.tree.map(lambda total, factor: total.astype(factor.dtype), sums, factors)

    groups = _groups((up, gate, down), group_sizes, ranks)
    dx, (d_up, d_gate, d_down) = lax.scan(one_group, vary_like(jnp.zeros_like(x), x), groups)
    return dx, d_up, d_gate, d_down


def _block_backward(
    x: Array, dy: Array, factors: Any, activation: str | None, options: Options
) -> tuple[Array, tuple[Factors, Factors | None, Factors]]:
    """Dx of a block and its share of the gradients of its group's factors, all in float32 at least."""
    up, gate, down = factors
    times = functools.partial(_dot, options=options)

    def back(x: Array, middle: Array, dy: Array, factors: Factors) -> tuple[Array, Factors]:
        d_middle = times(dy, factors[1], (1, 1)).astype(x.dtype)
        return times(d_middle, factors[0], (1, 1)), (times(x, d_middle, (0, 0)), times(middle, dy, (0, 0)))

    up_middle = times(x, up[0], (1, 0)).astype(x.dtype)
    value = times(up_middle, up[1], (1, 0))
    gated: Array | None = None
    if gate is not None:
        gate_middle = times(x, gate[0], (1, 0)).astype(x.dtype)
        gated = times(gate_middle, gate[1], (1, 0))
    hidden, pull = jax.vjp(lambda value, gated: join(value, gated, activation), value, gated)
    hidden = hidden.astype(x.dtype)
    d_hidden, d_down = back(hidden, times(hidden, down[0], (1, 0)).astype(x.dtype), dy, down)
    d_value, d_gated = pull(d_hidden)
    dx, d_up = back(x, up_middle, d_value.astype(x.dtype), up)
    if gate is None:
        return dx, (d_up, None, d_down)
    more, d_gate = back(x, gate_middle, d_gated.astype(x.dtype), gate)
    return dx + more, (d_up, d_gate, d_down)


def _by_rows(
    x: Array,
    factors: Pairs,
    group_sizes: Array,
    ranks: tuple[Array | None, ...],
    width: int,
    options: Options,
    compute: Callable[[Array, Any], Array],
) -> Array:
    """compute(rows of a block, factors of its group) for all rows of groups; zero elsewhere."""

    def step(out: Array, factors: Any, at: Array, block: int, mine: Array | None) -> Array:
        return _write(out, compute(lax.dynamic_slice_in_dim(x, at, block), factors), at, mine)

    def one_group(out: Array, group: Any) -> tuple[Array, None]:
        return _over_group(out, group, ranks, _blocks(options, x.shape[0]), x.shape[0], step), None

    out = vary_like(jnp.zeros((x.shape[0], width), options.dtype), x)
    return lax.scan(one_group, out, _groups(factors, group_sizes, ranks))[0]


def _groups(factors: Pairs, group_sizes: Array, ranks: tuple[Array | None, ...]) -> tuple[Pairs, Array, Array, Array]:
    """What a loop over groups reads: factors, first row, number of rows, and which of RANK_PARTS holds the ranks."""
    part = jnp.zeros_like(group_sizes)
    for pair, rank in zip(factors, ranks, strict=True):
        if pair is not None and rank is not None:
            held = jnp.array([-(-pair[0].shape[2] // part) for part in RANK_PARTS], rank.dtype)
            part = jnp.maximum(part, jnp.searchsorted(held, rank).astype(part.dtype))
    return factors, jnp.cumsum(group_sizes) - group_sizes, group_sizes, part


def _over_group(
    carry: Any, group: Any, ranks: tuple[Array | None, ...], blocks: tuple[int, ...], rows: int, step: Step
) -> Any:
    """`step` over the blocks of one group, on as much of its factors as its ranks need.

    Every size is a loop of its own, most of them run no times: a `lax.switch` would copy the carry.
    """
    factors, start, size, chosen = group
    if all(rank is None for rank in ranks):
        return _over_blocks(carry, start, size, blocks, rows, functools.partial(_with, step, factors))
    for index, part in enumerate(RANK_PARTS):
        cut = tuple(
            pair if pair is None or rank is None else _narrow(pair, part)
            for pair, rank in zip(factors, ranks, strict=True)
        )
        own = jnp.where(chosen == index, size, 0)
        carry = _over_blocks(carry, start, own, blocks, rows, functools.partial(_with, step, cut))
    return carry


def _with(step: Step, factors: Any, carry: Any, at: Array, block: int, mine: Array | None) -> Any:
    return step(carry, factors, at, block, mine)


def _narrow(factors: Factors, part: int) -> Factors:
    u, v = factors
    rank = -(-u.shape[1] // part)
    return u[:, :rank], v[:rank]


def _over_blocks(
    carry: Any, start: Array, size: Array, blocks: tuple[int, ...], rows: int, step: Callable[..., Any]
) -> Any:
    """step(carry, first row, rows of the block, which rows are the group's | None for all) over the rows of one group."""
    whole = size // blocks[0]
    carry = lax.fori_loop(0, whole, lambda i, carry: step(carry, start + i * blocks[0], blocks[0], None), carry)
    at, left = start + whole * blocks[0], size - whole * blocks[0]
    for block, smaller in zip(blocks, (*blocks[1:], 0), strict=True):
        placed = jnp.minimum(at, rows - block)
        row = placed + jnp.arange(block, dtype=placed.dtype)
        mine = ((row >= at) & (row < start + size))[:, None]

        def last(_: Array, carry: Any, placed: Array = placed, block: int = block, mine: Array = mine) -> Any:
            return step(carry, placed, block, mine)

        fits = (left > smaller) & (left <= block)
        carry = lax.fori_loop(0, fits.astype(jnp.int32), last, carry)
    return carry


def _write(out: Array, part: Array, at: Array, mine: Array | None) -> Array:
    part = part.astype(out.dtype)
    if mine is not None:
        part = jnp.where(mine, part, lax.dynamic_slice_in_dim(out, at, part.shape[0]))
    return lax.dynamic_update_slice_in_dim(out, part, at, 0)


def _add_corner(total: Array, part: Array) -> Array:
    """`part` added to the first rows and columns of `total`."""
    if total.shape == part.shape:
        return total + part
    corner = lax.slice(total, (0, 0), part.shape) + part
    return lax.dynamic_update_slice(total, corner, (0, 0))


def _through(rows: Array, factors: Factors, options: Options) -> Array:
    middle = _dot(rows, factors[0], (1, 0), options).astype(rows.dtype)
    return _dot(middle, factors[1], (1, 0), options)


def _dot(a: Array, b: Array, axes: tuple[int, int], options: Options) -> Array:
    """The product of two matrices over one axis of each, summed in float32 at least."""
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, precision=options.precision, preferred_element_type=accumulator_of(a.dtype))


def _blocks(options: Options, rows: int) -> tuple[int, ...]:
    """Blocks no larger than the rows, largest first, such that the largest holds all rows or is one that was asked for."""
    blocks = ROW_BLOCKS if options.tiling is None else tuple(options.tiling)
    if not blocks or min(blocks) < 1 or any(a <= b for a, b in zip(blocks, blocks[1:], strict=False)):
        raise ValueError(f"tiling={blocks} must be blocks of at least 1 row, largest first, such as {ROW_BLOCKS}.")
    if rows < blocks[0]:
        return (rows, *(block for block in blocks if block < rows))
    return blocks
