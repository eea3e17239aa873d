"""Every row times every kernel, masked: E times the work, easy to believe. What the others must equal."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moejax_kernels.activations import activate
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
    """activation(x w[e] + bias[e]). Source: ours."""
    linear = _linear(x, w, group_sizes, "EFD" if transposed else "EDF", options)
    if bias is not None:
        mine = members(group_sizes, x.shape[0])
        linear = linear + jnp.einsum("EM,EF->MF", mine.astype(linear.dtype), bias.astype(linear.dtype))
    return activate(linear, activation).astype(options.dtype)


def gated_product(
    x: Float[Array, "M D"],
    gate: Float[Array, "E D F"],
    up: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    activation: str | None,
    options: Options,
) -> Float[Array, "M F"]:
    """activation(x gate[e]) * (x up[e]). Source: ours."""
    gated, value = (_linear(x, w, group_sizes, "EDF", options) for w in (gate, up))
    return (activate(gated, activation) * value).astype(options.dtype)


def sum_of_outer(
    x: Float[Array, "M D"], y: Float[Array, "M F"], group_sizes: Int[Array, "E"], *, options: Options
) -> Float[Array, "E D F"]:
    """The sum of x[m] y[m] over the rows of each group. Source: ours."""
    mine = members(group_sizes, x.shape[0])[:, :, None]
    left, right = (jnp.where(mine, rows[None], jnp.zeros((), rows.dtype)) for rows in (x, y))
    return jnp.einsum(
        "EMD,EMF->EDF", left, right, precision=options.precision, preferred_element_type=options.accumulator
    ).astype(options.dtype)


def members(group_sizes: Int[Array, "E"], rows: int) -> Bool[Array, "E M"]:
    """Whether a row is of a group. Source: ours."""
    ends = jnp.cumsum(group_sizes)[:, None]
    index = jnp.arange(rows)[None, :]
    return (index >= ends - group_sizes[:, None]) & (index < ends)


def _linear(x: Array, w: Array, group_sizes: Array, kernel_axes: str, options: Options) -> Array:
    mine = members(group_sizes, x.shape[0])[:, :, None]
    masked = jnp.where(mine, x[None], jnp.zeros((), x.dtype))
    return jnp.einsum(
        f"EMD,{kernel_axes}->MF", masked, w, precision=options.precision, preferred_element_type=options.accumulator
    )
