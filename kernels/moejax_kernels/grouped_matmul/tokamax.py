"""The grouped product of the tokamax library (extra `tokamax`), for those who want to compare.

tokamax picks its own kernel: Mosaic on TPU and GPU where it supports the shapes, else `jax.lax.ragged_dot`, which on a CPU
multiplies every row by every kernel. Its choice is logged by it, not by us.
Source: github.com/openxla/tokamax, ops/ragged_dot.
Deviations: bias and activation follow the product, and the gated pair is two products: tokamax has no such kernels.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul.gradients import group_of_row
from moejax_kernels.grouped_matmul.options import Options


def product(
    x: Float[Array, "M D"],
    w: Float[Array, "E ..."],
    bias: Float[Array, "E F"] | None,
    group_sizes: Int[Array, "E"],
    *,
    transposed: bool,
    activation: str | None,
    options: Options,
) -> Float[Array, "M F"]:
    """activation(x w[e] + bias[e]). Raises ImportError where tokamax is not installed. Source: see the module."""
    linear = _ragged_dot(_owned(x, group_sizes), w, group_sizes, ((1,), (2 if transposed else 1,)), [0], options)
    if bias is not None:
        group = group_of_row(group_sizes, x.shape[0])
        linear = linear + jnp.take(bias, group, axis=0, mode="fill", fill_value=0).astype(linear.dtype)
    return _owned(activate(linear, activation), group_sizes).astype(options.dtype)


def gated_product(
    x: Float[Array, "M D"],
    gate: Float[Array, "E D F"],
    up: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    activation: str | None,
    options: Options,
) -> Float[Array, "M F"]:
    """activation(x gate[e]) * (x up[e]). Raises ImportError where tokamax is not installed. Source: see the module."""
    gated, value = (
        product(x, w, None, group_sizes, transposed=False, activation=name, options=options)
        for w, name in ((gate, activation), (up, None))
    )
    return gated * value


def sum_of_outer(
    x: Float[Array, "M D"], y: Float[Array, "M F"], group_sizes: Int[Array, "E"], *, options: Options
) -> Float[Array, "E D F"]:
    """The sum of x[m] y[m] over the rows of each group. Raises ImportError as `product`. Source: see the module."""
    left, right = (_owned(rows, group_sizes) for rows in (x, y))
    return _ragged_dot(left, right, group_sizes, ((0,), (0,)), [], options).astype(options.dtype)


def _ragged_dot(
    x: Array, w: Array, group_sizes: Array, contract: Any, group_axes: list[int], options: Options
) -> Array:
    try:
        library = importlib.import_module("tokamax")
    except ImportError as error:
        raise ImportError("implementation='tokamax' needs the package: pip install 'moejax[tokamax]'.") from error
    dimensions = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(contract, ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=group_axes
    )
    return library.ragged_dot_general(
        x, w, group_sizes, dimensions, precision=options.precision, preferred_element_type=options.accumulator
    )


def _owned(rows: Array, group_sizes: Array) -> Array:
    """Rows of groups as they are, the others zero."""
    owned = jnp.arange(rows.shape[0]) < jnp.sum(group_sizes)
    return jnp.where(owned[:, None], rows, jnp.zeros((), rows.dtype))
