"""The rows of each group in blocks, and its factors cut to its rank: the loops of the XLA implementation.

Every block size and every part of the rank is a loop of its own, most of which run no times for a given group: XLA updates
the carry of a loop in place, and would copy that of a `lax.switch`.
Source: ours.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from moejax_kernels.grouped_matmul.ladders import steps_within
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.grouped_matmul.xla import walk

# Rows of a block for groups of few and of many rows. Measured on two cores with 128 and 512 rows per group.
FEW, MANY = tuple(range(16, 289, 16)), tuple(range(32, 385, 32))
MANY_ROWS = 256  # the mean number of rows from which MANY is taken
RANK_PARTS = (4, 2, 1)  # a group's products take R over one of these, least first

Factors = tuple[Array, Array]
Pairs = tuple[Factors | None, ...]
# (carry, a group's factors, first row of a block, its rows, which of them are the group's or None for all) -> carry
Step = Callable[[Any, Any, Array, int, Array | None], Any]


def row_blocks(options: Options, rows: int, group_count: int, ranks: tuple[Array | None, ...]) -> tuple[int, ...]:
    """Sizes of blocks of rows in rising order, none above `rows`. With ranks every third: each is compiled per rank part.

    Raises ValueError for a tiling with a size below 1.
    """
    measured = MANY if rows >= MANY_ROWS * group_count else FEW
    rising = steps_within(rows, measured if options.tiling is None else options.tiling)
    return rising if options.tiling or all(rank is None for rank in ranks) else rising[::-3][::-1]


def groups(factors: Pairs, group_sizes: Array, ranks: tuple[Array | None, ...]) -> tuple[Pairs, Array, Array, Array]:
    """What a loop over groups reads: factors, first row, number of rows, and which of RANK_PARTS holds the ranks."""
    part = jnp.zeros_like(group_sizes)
    for pair, rank in zip(factors, ranks, strict=True):
        if pair is not None and rank is not None:
            held = jnp.array([-(-pair[0].shape[2] // part) for part in RANK_PARTS], rank.dtype)
            part = jnp.maximum(part, jnp.searchsorted(held, rank).astype(part.dtype))
    return factors, jnp.cumsum(group_sizes) - group_sizes, group_sizes, part


def over_group(
    carry: Any, group: Any, ranks: tuple[Array | None, ...], blocks: tuple[int, ...], rows: int, step: Step
) -> Any:
    """`step` over the blocks of one group (of `groups`), on as much of its factors as its ranks need."""
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

    def whole(at: Array, carry: Any) -> Any:
        return step(carry, at, blocks[-1], None)

    def last(at: Array, owned: Array, carry: Any) -> Any:
        return step(carry, at, owned.shape[0], owned[:, None])

    return walk(blocks, start, size, rows, whole, last, carry)


def write(out: Array, part: Array, at: Array, mine: Array | None) -> Array:
    """`out` with the rows of `part` from row `at` on; those that are not `mine` stay as they are."""
    part = part.astype(out.dtype)
    if mine is not None:
        part = jnp.where(mine, part, lax.dynamic_slice_in_dim(out, at, part.shape[0]))
    return lax.dynamic_update_slice_in_dim(out, part, at, 0)


def add_corner(total: Array, part: Array) -> Array:
    """`part` added to the first rows and columns of `total`."""
    if total.shape == part.shape:
        return total + part
    corner = lax.slice(total, (0, 0), part.shape) + part
    return lax.dynamic_update_slice(total, corner, (0, 0))
