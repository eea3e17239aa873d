"""Low-rank products from plain XLA operations, fused by blocks of rows: what lies between x and the result is [block, R] or
[block, F] and never reaches the size of the operands. The cost does not grow with the number of groups.

A loop over groups takes each group's rows in blocks: large ones while they fit, the smallest for what is left. Only a
smallest block can run over the end of its group: rows that are not the group's keep what the output holds. The backward
pass goes over the same blocks, computes the middle again and sums the gradients of a group's factors over its blocks.
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

ROW_BLOCKS = (256, 64, 16)  # rows of a block, largest first

Factors = tuple[Array, Array]
Step = Callable[[Any, Array, int, Array | None], Any]


def product(x: Array, u: Array, v: Array, group_sizes: Array, *, ranks: Array | None, options: Options) -> Array:
    """As `gradients.py` asks."""
    del ranks
    return _by_rows(x, (u, v), group_sizes, v.shape[2], options, functools.partial(_through, options=options))


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
    del ranks

    def compute(rows: Array, factors: Any) -> Array:
        up, gate, down = factors
        value = _through(rows, up, options)
        gated = None if gate is None else _through(rows, gate, options)
        return _through(join(value, gated, activation).astype(x.dtype), down, options)

    return _by_rows(x, (up, gate, down), group_sizes, down[1].shape[2], options, compute)


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
    del ranks
    rows, wide = x.shape[0], _wide(x)
    blocks = _blocks(options, rows)

    def one_group(dx: Array, group: Any) -> tuple[Array, Any]:
        factors, start, size = group

        def step(carry: Any, at: Array, block: int, mine: Array | None) -> Any:
            dx, sums = carry
            x_block, dy_block = (lax.dynamic_slice_in_dim(a, at, block) for a in (x, dy))
            if mine is not None:  # on both sides: zero times what another row holds could be NaN
                x_block, dy_block = (jnp.where(mine, a, jnp.zeros((), a.dtype)) for a in (x_block, dy_block))
            part, found = _block_backward(x_block, dy_block, factors, activation, options)
            return _write(dx, part, at, mine), jax.tree.map(jnp.add, sums, found)

        sums = vary_like(jax.tree.map(lambda factor: jnp.zeros(factor.shape, wide), factors), x)
        dx, sums = _over_blocks((dx, sums), start, size, blocks, rows, step)
        return dx, jax.tree.map(lambda total, factor: total.astype(factor.dtype), sums, factors)

    starts = jnp.cumsum(group_sizes) - group_sizes
    dx, (d_up, d_gate, d_down) = lax.scan(
        one_group, vary_like(jnp.zeros_like(x), x), ((up, gate, down), starts, group_sizes)
    )
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
    x: Array, factors: Any, group_sizes: Array, width: int, options: Options, compute: Callable[[Array, Any], Array]
) -> Array:
    """compute(rows of a block, factors of its group) for all rows of groups; zero elsewhere."""
    rows = x.shape[0]
    blocks = _blocks(options, rows)

    def one_group(out: Array, group: Any) -> tuple[Array, None]:
        mine_factors, start, size = group

        def step(out: Array, at: Array, block: int, mine: Array | None) -> Array:
            return _write(out, compute(lax.dynamic_slice_in_dim(x, at, block), mine_factors), at, mine)

        return _over_blocks(out, start, size, blocks, rows, step), None

    out = vary_like(jnp.zeros((rows, width), options.dtype), x)
    return lax.scan(one_group, out, (factors, jnp.cumsum(group_sizes) - group_sizes, group_sizes))[0]


def _over_blocks(carry: Any, start: Array, size: Array, blocks: tuple[int, ...], rows: int, step: Step) -> Any:
    """step(carry, first row, rows of the block, which rows are the group's | None for all) over the rows of one group."""
    for block in blocks:
        last = block == blocks[-1]
        count = -(-size // block) if last else size // block

        def whole(i: Array, carry: Any, start: Array = start, block: int = block) -> Any:
            return step(carry, start + i * block, block, None)

        def partial(i: Array, carry: Any, start: Array = start, block: int = block, size: Array = size) -> Any:
            at = start + i * block
            placed = jnp.minimum(at, rows - block)
            row = placed + jnp.arange(block, dtype=placed.dtype)
            return step(carry, placed, block, ((row >= at) & (row < start + size))[:, None])

        carry = lax.fori_loop(0, count, partial if last else whole, carry)
        start, size = start + count * block, size - count * block
    return carry


def _write(out: Array, part: Array, at: Array, mine: Array | None) -> Array:
    part = part.astype(out.dtype)
    if mine is not None:
        part = jnp.where(mine, part, lax.dynamic_slice_in_dim(out, at, part.shape[0]))
    return lax.dynamic_update_slice_in_dim(out, part, at, 0)


def _through(rows: Array, factors: Factors, options: Options) -> Array:
    middle = _dot(rows, factors[0], (1, 0), options).astype(rows.dtype)
    return _dot(middle, factors[1], (1, 0), options)


def _dot(a: Array, b: Array, axes: tuple[int, int], options: Options) -> Array:
    """The product of two matrices over one axis of each, summed in float32 at least."""
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, precision=options.precision, preferred_element_type=_wide(a))


def _wide(x: Array) -> jnp.dtype:
    return accumulator_of(x.dtype)


def _blocks(options: Options, rows: int) -> tuple[int, ...]:
    """Blocks no larger than the rows, largest first; one of all rows where none fits."""
    blocks = ROW_BLOCKS if options.tiling is None else tuple(options.tiling)
    if not blocks or min(blocks) < 1 or any(a <= b for a, b in zip(blocks, blocks[1:], strict=False)):
        raise ValueError(f"tiling={blocks} must be blocks of at least 1 row, largest first, such as {ROW_BLOCKS}.")
    return tuple(block for block in blocks if block <= rows) or (rows,)
