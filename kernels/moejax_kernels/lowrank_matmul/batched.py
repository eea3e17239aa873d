"""The low-rank FFN of buffers, as many rows per expert, in plain XLA operations: blocks whose sizes are known when compiled.

A block is some rows of one expert or some whole experts, so that its hidden rows are about BLOCK numbers; the backward pass
computes them again.
Source: ours.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.lowrank_matmul.backward import join

BLOCK = 2**18  # numbers of the hidden rows of a block: one MiB in float32

Operands = tuple[Any, Any, Any, Any]  # up, gate or None, down: pairs (u [E D R], v [E R F]); the bias [E F] or None


def ffn(x: Array, operands: Operands, activation: str | None, options: Options) -> Array:
    """activation(x up + bias) down, or (activation(x gate) * (x up + bias)) down, for x [E C D]."""
    experts, rows, _ = x.shape
    at_once, blocks = cut(
        experts, rows, operands[0][1].shape[2], BLOCK if options.tiling is None else options.tiling[0]
    )

    def some_experts(x: Array, own: Operands) -> Array:
        if blocks == 1:
            return _block(x, own, activation, options)
        cut_rows = x.reshape(x.shape[0], blocks, rows // blocks, x.shape[2]).swapaxes(0, 1)
        again = jax.checkpoint(lambda x: _block(x, own, activation, options), prevent_cse=False)
        out = _over(again, cut_rows).swapaxes(0, 1)
        return out.reshape(x.shape[0], rows, out.shape[3])

    if at_once == experts:
        return some_experts(x, operands)
    steps = jax.tree.map(lambda a: a.reshape(experts // at_once, at_once, *a.shape[1:]), (x, operands))
    again = jax.checkpoint(lambda step: some_experts(*step), prevent_cse=False)
    out = _over(again, steps)
    return out.reshape(experts, rows, out.shape[3])


def cut(experts: int, rows: int, width: int, block: int) -> tuple[int, int]:
    """(experts at once, blocks that an expert's rows are cut into), so that no block has more than `block` hidden numbers.

    Both divide; where the rows have no divisor within four times what is needed, they stay whole.
    """
    if rows * width <= block:
        most = block // max(rows * width, 1)
        return max(n for n in range(1, experts + 1) if experts % n == 0 and n <= max(most, 1)), 1
    least = -(-rows * width // block)
    return 1, next((n for n in range(least, 4 * least) if rows % n == 0), 1)


def _block(x: Array, operands: Operands, activation: str | None, options: Options) -> Array:
    up, gate, down, bias = operands
    value = through(x, up, options)
    if bias is not None:
        value = value + bias[:, None, :].astype(value.dtype)
    gated = None if gate is None else through(x, gate, options)
    return through(join(value, gated, activation).astype(x.dtype), down, options).astype(options.dtype)


def through(x: Array, factors: tuple[Array, Array], options: Options) -> Array:
    """(x u) v of rows [... D] and factors with the same leading axes, in float32 at least. Source: ours."""
    middle = _product(x, factors[0], options).astype(x.dtype)
    return _product(middle, factors[1], options)


def _product(x: Array, kernel: Array, options: Options) -> Array:
    return jnp.matmul(x, kernel, precision=options.precision, preferred_element_type=accumulator_of(x.dtype))


def _over(function: Any, steps: Any) -> Array:
    return lax.scan(lambda carry, step: (carry, function(step)), None, steps)[1]
