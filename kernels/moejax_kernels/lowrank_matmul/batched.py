"""The low-rank FFN of buffers, as many rows per expert, in plain XLA operations: blocks whose sizes are known when compiled.

A block is some rows of one expert or some whole experts, so that its hidden rows are about BLOCK numbers; the backward pass
computes them again. Deviations: forward-mode differentiation is not defined, as for every `jax.custom_vjp`.
Source: ours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.lowrank_matmul.backward import join
from moejax_kernels.manual_axes import vary_alike

BLOCK = 2**18  # numbers of the hidden rows of a block: one MiB in float32

Operands = tuple[Any, Any, Any, Any]  # up, gate or None, down: pairs (u [E D R], v [E R F]); the bias [E F] or None


def ffn(x: Array, operands: Operands, activation: str | None, options: Options) -> Array:
    """activation(x up + bias) down, or (activation(x gate) * (x up + bias)) down, for x [E C D], differentiable."""
    return _ffn(*vary_alike((x, operands)), activation, options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _ffn(x: Array, operands: Operands, activation: str | None, options: Options) -> Array:
    return _by_blocks(x, operands, activation, options, _written_in_place)


def _ffn_forward(x: Array, operands: Operands, activation: str | None, options: Options) -> tuple[Array, Any]:
    return _ffn(x, operands, activation, options), (x, operands)


def _ffn_backward(activation: str | None, options: Options, saved: Any, dy: Array) -> Any:
    again = functools.partial(_by_blocks, activation=activation, options=options, over=_computed_again)
    return jax.vjp(again, *saved)[1](dy)


_ffn.defvjp(_ffn_forward, _ffn_backward)


def _by_blocks(x: Array, operands: Operands, activation: str | None, options: Options, over: Any) -> Array:
    experts, rows, _ = x.shape
    width = operands[2][1].shape[2]
    largest = BLOCK if options.tiling is None else options.tiling[0]
    at_once, blocks = cut(experts, rows, operands[0][1].shape[2], largest)

    def some_experts(x: Array, own: Operands) -> Array:
        if blocks == 1:
            return _block(x, own, activation, options)
        cut_rows = x.reshape(x.shape[0] * blocks, 1, rows // blocks, x.shape[2])
        out = over(lambda x, _: _block(x, own, activation, options), cut_rows, None, width, options.dtype)
        return out.reshape(x.shape[0], rows, width)

    if at_once == experts:
        return some_experts(x, operands)
    steps = jax.tree.map(lambda a: a.reshape(experts // at_once, at_once, *a.shape[1:]), (x, operands))
    return over(some_experts, *steps, width, options.dtype).reshape(experts, rows, width)


def _written_in_place(function: Any, x: Array, operands: Any, width: int, dtype: Any) -> Array:
    """function(x[i], operands[i]) [E C F] for all i, written over x where the shapes allow it.

    Else over what is made from x: a buffer of zeros would be filled, and held, before anything else in the program.
    """
    same = x.shape[3] == width and x.dtype == dtype
    start = x if same else jnp.broadcast_to(x[..., :1].astype(dtype), (*x.shape[:3], width))

    def step(i: Array, out: Array) -> Array:
        own, mine = (
            jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, 0, False), a) for a in (operands, out if same else x)
        )
        return lax.dynamic_update_index_in_dim(out, function(mine, own).astype(dtype), i, 0)

    return lax.fori_loop(0, x.shape[0], step, start)


def _computed_again(function: Any, x: Array, operands: Any, width: int, dtype: Any) -> Array:
    """The same for gradients: nothing that a step computes is kept."""
    del width, dtype
    again = jax.checkpoint(function, prevent_cse=False)
    return lax.scan(lambda carry, step: (carry, again(*step)), None, (x, operands))[1]


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
