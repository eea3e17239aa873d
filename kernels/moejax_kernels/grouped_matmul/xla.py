"""A grouped product from plain XLA operations whose cost does not grow with the number of groups.

A loop over groups multiplies each group's rows in blocks: large blocks while they fit, smaller ones for what is left.
The last block of a group may overrun into the rows of the next; since groups come in order, the next one overwrites
them, so neither the product nor the gradient in x needs a mask. The gradient in w does, in its last block.

Source: ours (measured against `lax.ragged_dot`, which on CPU multiplies every row by every kernel).
Deviations: forward-mode differentiation is not defined, as for every `jax.custom_vjp`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moejax_kernels.grouped_matmul.dtypes import common_dtype

ROW_BLOCKS = (256, 64, 16)  # rows of a block, largest first
SUM_BLOCKS = (512, 256, 128, 64, 32)  # rows summed at once in the gradient of w, largest first


def grouped_matmul(
    x: Float[Array, "M D"],
    w: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    precision: str | lax.Precision | None,
    dtype: jnp.dtype,
) -> Float[Array, "M F"]:
    """As `api.grouped_matmul`."""
    return _product(x, w, group_sizes, False, precision, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _product(x: Array, w: Array, group_sizes: Array, transposed: bool, precision: Any, dtype: Any) -> Array:
    """Rows [M D] times kernels [E D F] (transposed: [E F D]) of their groups."""
    rows, width = x.shape[0], w.shape[1 if transposed else 2]
    blocks = _fitting(ROW_BLOCKS, rows)
    starts, sizes = _bounds(group_sizes, rows)
    padded = jnp.pad(x, ((0, blocks[0]), (0, 0)))
    contract = (((1,), (1 if transposed else 0,)), ((), ()))

    def multiply(out: Array, group: tuple[Array, Array, Array]) -> tuple[Array, None]:
        kernel, start, size = group
        for block in blocks:
            last = block == blocks[-1]
            count = -(-size // block) if last else size // block

            def step(i: Array, out: Array, start: Array = start, block: int = block) -> Array:
                at = start + i * block
                piece = lax.dynamic_slice_in_dim(padded, at, block)
                product = _dot(piece, kernel, contract, precision, dtype)
                return lax.dynamic_update_slice_in_dim(out, product, at, 0)

            out = lax.fori_loop(0, count, step, out)
            start, size = start + count * block, size - count * block
        return out, None

    out, _ = lax.scan(multiply, jnp.zeros((rows + blocks[0], width), dtype), (w, starts, sizes))
    owned = jnp.arange(rows) < jnp.sum(sizes)
    return jnp.where(owned[:, None], out[:rows], jnp.zeros((), dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _sum_of_outer(x: Array, y: Array, group_sizes: Array, precision: Any, dtype: Any) -> Array:
    """For each group the sum over its rows of x[m] y[m]^T: [E D F], summed over blocks in float32 at least."""
    rows = x.shape[0]
    blocks = _fitting(SUM_BLOCKS, rows)
    largest, smaller = blocks[0], blocks[::-1]
    starts, sizes = _bounds(group_sizes, rows)
    x_padded, y_padded = (jnp.pad(a, ((0, largest), (0, 0))) for a in (x, y))
    wide = common_dtype(dtype, jnp.float32)
    contract = (((0,), (0,)), ((), ()))

    def outer(at: Array, size: Array, *, block: int) -> Array:
        mine = (jnp.arange(block) < size)[:, None]  # on both sides: zero times what a later row holds could be NaN
        left, right = (
            jnp.where(mine, lax.dynamic_slice_in_dim(a, at, block), jnp.zeros((), a.dtype))
            for a in (x_padded, y_padded)
        )
        return _dot(left, right, contract, precision, wide)

    def nothing(at: Array, size: Array) -> Array:
        return jnp.zeros((x.shape[1], y.shape[1]), wide)

    def one_group(_: None, group: tuple[Array, Array]) -> tuple[None, Array]:
        start, size = group
        count = size // largest
        left = size - count * largest
        at = start + count * largest
        branches: list[Callable[..., Array]] = [nothing, *(functools.partial(outer, block=block) for block in smaller)]
        total = lax.switch(jnp.searchsorted(jnp.array((0, *smaller)), left), branches, at, left)

        def add(i: Array, total: Array) -> Array:
            return total + outer(start + i * largest, jnp.int32(largest), block=largest)

        total = lax.fori_loop(0, count, add, total)
        return None, total.astype(dtype)

    return lax.scan(one_group, None, (starts, sizes))[1]


def _product_forward(x, w, group_sizes, transposed, precision, dtype):
    return _product(x, w, group_sizes, transposed, precision, dtype), (x, w, group_sizes)


def _product_backward(transposed, precision, dtype, saved, dy):
    del dtype
    x, w, group_sizes = saved
    dx = _product(dy, w, group_sizes, not transposed, precision, x.dtype)
    left, right = (dy, x) if transposed else (x, dy)
    return dx, _sum_of_outer(left, right, group_sizes, precision, w.dtype), None


def _sum_of_outer_forward(x, y, group_sizes, precision, dtype):
    return _sum_of_outer(x, y, group_sizes, precision, dtype), (x, y, group_sizes)


def _sum_of_outer_backward(precision, dtype, saved, dw):
    del dtype
    x, y, group_sizes = saved
    dx = _product(y, dw, group_sizes, True, precision, x.dtype)
    return dx, _product(x, dw, group_sizes, False, precision, y.dtype), None


_product.defvjp(_product_forward, _product_backward)
_sum_of_outer.defvjp(_sum_of_outer_forward, _sum_of_outer_backward)


def _bounds(group_sizes: Array, rows: int) -> tuple[Array, Array]:
    """First row and number of rows of each group, cut at `rows`."""
    ends = jnp.minimum(jnp.cumsum(group_sizes.astype(jnp.int32)), rows)
    starts = jnp.concatenate([jnp.zeros((1,), jnp.int32), ends[:-1]])
    return starts, ends - starts


def _fitting(blocks: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """Blocks no larger than the rows; the smallest always."""
    return tuple(block for block in blocks if block <= max(rows, blocks[-1]))


def _dot(a: Array, b: Array, contract: Any, precision: Any, dtype: Any) -> Array:
    common = common_dtype(a.dtype, b.dtype)
    product = lax.dot_general(
        a.astype(common), b.astype(common), contract, precision=precision, preferred_element_type=dtype
    )
    return product.astype(dtype)
