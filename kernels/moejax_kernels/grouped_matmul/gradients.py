"""The gradients of grouped products, the same for every implementation.

An implementation is a module of this folder with three functions, none of which needs a gradient of its own:
  product(x [M D], w, bias [E F] | None, group_sizes [E], *, transposed, activation, options) -> [M F]
  gated_product(x [M D], gate [E D F], up [E D F], group_sizes [E], *, activation, options) -> [M F]
  sum_of_outer(x [M D], y [M F], group_sizes [E], *, options) -> [E D F]
Rows after the last group are zero in a product; an empty group's sum is exactly zero; what rows after the last group hold
(NaN too) reaches nothing. Sizes are non-negative int32 and sum to at most M: they are cut here, once.
Source: ours.
Deviations: forward-mode differentiation is not defined, as for every `jax.custom_vjp`.
"""

import dataclasses
import functools
import importlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.manual_axes import vary_alike


def product(
    x: Array,
    w: Array,
    bias: Array | None,
    group_sizes: Array,
    transposed: bool,
    activation: str | None,
    options: Options,
) -> Array:
    """activation(x w[e] + bias[e]), differentiable."""
    x, w, bias, group_sizes = vary_alike((x, w, bias, group_sizes))
    return _product(x, w, bias, cut_sizes(group_sizes, x.shape[0]), transposed, activation, options)


def gated_product(
    x: Array, gate: Array, up: Array, group_sizes: Array, activation: str | None, options: Options
) -> Array:
    """activation(x gate[e]) * (x up[e]), differentiable."""
    x, gate, up, group_sizes = vary_alike((x, gate, up, group_sizes))
    return _gated_product(x, gate, up, cut_sizes(group_sizes, x.shape[0]), activation, options)


def outer(x: Array, y: Array, group_sizes: Array, options: Options) -> Array:
    """Sums of x[m] y[m] over the rows of each group, differentiable."""
    x, y, group_sizes = vary_alike((x, y, group_sizes))
    return _outer(x, y, cut_sizes(group_sizes, x.shape[0]), options)


def backend(options: Options) -> ModuleType:
    """The module of an implementation, imported when it is first asked for."""
    return importlib.import_module(f"moejax_kernels.grouped_matmul.{options.implementation}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _product(x, w, bias, group_sizes, transposed, activation, options):
    return backend(options).product(
        x, w, bias, group_sizes, transposed=transposed, activation=activation, options=options
    )


def _product_forward(x, w, bias, group_sizes, transposed, activation, options):
    linear = _product(x, w, bias, group_sizes, transposed, None, options)
    saved = None if activation is None else linear
    return activate(linear, activation), (x, w, bias, group_sizes, saved)


def _product_backward(transposed, activation, options, residuals, dy):
    x, w, bias, group_sizes, linear = residuals
    if activation is not None:
        # The barrier keeps what the activation computes inside (a tanh of [M F]) from being kept since the forward pass.
        linear = jax.lax.optimization_barrier(linear)
        dy = jax.vjp(functools.partial(activate, name=activation), linear)[1](dy)[0]
    dy = dy.astype(x.dtype)
    dx = _product(dy, w, None, group_sizes, not transposed, None, _turned(options, x.dtype))
    left, right = (dy, x) if transposed else (x, dy)
    dw = _outer(left, right, group_sizes, _of_dtype(_turned(options, w.dtype) if transposed else options, w.dtype))
    db = None if bias is None else group_sums(dy, group_sizes).astype(bias.dtype)
    return dx, dw, db, None


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _gated_product(x, gate, up, group_sizes, activation, options):
    return backend(options).gated_product(x, gate, up, group_sizes, activation=activation, options=options)


def _gated_forward(x, gate, up, group_sizes, activation, options):
    gated, value = (_product(x, w, None, group_sizes, False, None, options) for w in (gate, up))
    return activate(gated, activation) * value, (x, gate, up, group_sizes, gated, value)


def _gated_backward(activation, options, residuals, dy):
    x, gate, up, group_sizes, gated, value = residuals
    d_gated, d_value = jax.vjp(lambda g, v: activate(g, activation) * v, gated, value)[1](dy)
    d_gated, d_value = d_gated.astype(x.dtype), d_value.astype(x.dtype)
    turned, same = _turned(options, x.dtype), _of_dtype(options, gate.dtype)
    dx = _product(d_gated, gate, None, group_sizes, True, None, turned)
    dx = dx + _product(d_value, up, None, group_sizes, True, None, turned)
    return dx, _outer(x, d_gated, group_sizes, same), _outer(x, d_value, group_sizes, same), None


_gated_product.defvjp(_gated_forward, _gated_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _outer(x, y, group_sizes, options):
    return backend(options).sum_of_outer(x, y, group_sizes, options=options)


def _outer_forward(x, y, group_sizes, options):
    return _outer(x, y, group_sizes, options), (x, y, group_sizes)


def _outer_backward(options, residuals, dw):
    x, y, group_sizes = residuals
    dw = dw.astype(x.dtype)
    dx = _product(y, dw, None, group_sizes, True, None, _turned(options, x.dtype))
    return dx, _product(x, dw, None, group_sizes, False, None, _of_dtype(options, y.dtype)), None


_outer.defvjp(_outer_forward, _outer_backward)


def group_sums(y: Array, group_sizes: Array) -> Array:
    """The sum of the rows of each group, float32 at least: [M F] -> [E F]. Rows after the last group count nowhere."""
    groups = group_sizes.shape[0]
    return jax.ops.segment_sum(
        y.astype(accumulator_of(y.dtype)),
        group_of_row(group_sizes, y.shape[0]),
        num_segments=groups,
        indices_are_sorted=True,
    )


def group_of_row(group_sizes: Array, rows: int) -> Array:
    """The group of each row [M], int32; E for rows after the last group."""
    ends = jnp.cumsum(group_sizes)
    return jnp.searchsorted(ends, jnp.arange(rows, dtype=ends.dtype), side="right").astype(jnp.int32)


def cut_sizes(group_sizes: Array, rows: int) -> Array:
    """Sizes that are not negative and end at the last row."""
    ends = jnp.minimum(jnp.cumsum(jnp.maximum(group_sizes.astype(jnp.int32), 0)), rows)
    return jnp.diff(ends, prepend=jnp.zeros((1,), jnp.int32))


def _of_dtype(options: Options, dtype: Any) -> Options:
    return dataclasses.replace(options, dtype=jnp.dtype(dtype))


def _turned(options: Options, dtype: Any) -> Options:
    """Options of the product in the other direction: depth and columns of a three-part tiling change places."""
    tiling = options.tiling
    if tiling is not None and options.implementation.startswith("pallas"):
        tiling = (tiling[0], tiling[2], tiling[1], *tiling[3:])
    return dataclasses.replace(options, tiling=tiling, dtype=jnp.dtype(dtype))
