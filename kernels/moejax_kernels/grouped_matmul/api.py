"""The entries: rows grouped by expert, each group times its own kernel, and the transposes of that product.

Every entry takes
  implementation: a name of IMPLEMENTATIONS; None picks by the chip the program is traced for (`platforms.target`):
      'pallas_tpu' on TPU, 'pallas_gpu' on NVIDIA Hopper and newer, else 'xla'. A name given is the one used, or an
      error: nothing falls back silently. The one used stands in `jax.named_scope`.
  tiling: sizes of tiles of the product [M D] x [D F]; Pallas: (rows, depth, columns), 'xla': blocks of rows, largest
      first. None takes the implementation's measured or computed table.
  precision: as for `jax.lax.dot_general`. preferred_element_type: dtype of the output (None: that of x); sums are kept in
      float32 at least.
  interpret: run a Pallas implementation in Python, on any platform (True, or the interpreter's parameters).
All are differentiable backwards, any number of times. Sizes that are traced cannot be checked: they are cut where they run
over the rows of x, and negative ones count as 0.
Source: ours.
"""

from typing import Any

import jax
from jaxtyping import Array, Float, Int

from moejax_kernels.activations import check_activation
from moejax_kernels.grouped_matmul import gradients
from moejax_kernels.grouped_matmul.checks import check_floating, check_group_sizes, check_kernel
from moejax_kernels.grouped_matmul.options import options_for

IMPLEMENTATIONS = ("reference", "xla", "pallas_tpu", "pallas_gpu", "tokamax")


def grouped_matmul(
    x: Float[Array, "M D"],
    w: Float[Array, "E ..."],
    group_sizes: Int[Array, "E"],
    *,
    bias: Float[Array, "E F"] | None = None,
    activation: str | None = None,
    transposed: bool = False,
    implementation: str | None = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
    interpret: Any = False,
) -> Float[Array, "M F"]:
    """Row m becomes activation(x[m] w[e] + bias[e]), e its group: the first group_sizes[0] rows are of group 0, and so on.

    w is [E D F]; `transposed`: [E F D], contracted over its last axis (the gradient in x is such a product).
    Rows after the last group are zero in the output and get a zero gradient; the kernel of an empty group gets a
    gradient of exactly zero. FLOPs: 2 D F per row of a group.
    Raises ValueError for shapes that do not fit, integer or mixed dtypes, concrete sizes that are negative or exceed M,
    an unknown activation or implementation, a platform that cannot run it, and a tiling that the chip cannot hold.
    """
    check_kernel("w", w, x, transposed=transposed)
    check_group_sizes(group_sizes, x.shape[0], w.shape[0])
    check_activation(activation)
    dtype = check_floating(x=x, w=w, bias=bias)
    width = w.shape[1 if transposed else 2]
    if bias is not None and bias.shape != (w.shape[0], width):
        raise ValueError(f"bias has shape {bias.shape}; it must be (E, F) = {(w.shape[0], width)}.")
    options = options_for(
        implementation,
        IMPLEMENTATIONS,
        dtype=dtype,
        preferred_element_type=preferred_element_type,
        tiling=tiling,
        precision=precision,
        interpret=interpret,
    )
    with jax.named_scope(f"grouped_matmul_{options.implementation}"):
        return gradients.product(x, w, bias, group_sizes, transposed, activation, options)


def grouped_gated_matmul(
    x: Float[Array, "M D"],
    gate: Float[Array, "E D F"],
    up: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    activation: str | None = "silu",
    implementation: str | None = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
    interpret: Any = False,
) -> Float[Array, "M F"]:
    """Row m becomes activation(x[m] gate[e]) * (x[m] up[e]): the gated pair of SwiGLU, x read once.

    Errors, zero rows and zero gradients as for `grouped_matmul`. FLOPs: 4 D F per row of a group.
    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 5.
    """
    for name, w in (("gate", gate), ("up", up)):
        check_kernel(name, w, x)
    if gate.shape != up.shape:
        raise ValueError(f"gate {gate.shape} and up {up.shape} must have one shape.")
    check_group_sizes(group_sizes, x.shape[0], gate.shape[0])
    check_activation(activation)
    dtype = check_floating(x=x, gate=gate, up=up)
    options = options_for(
        implementation,
        IMPLEMENTATIONS,
        dtype=dtype,
        preferred_element_type=preferred_element_type,
        tiling=tiling,
        precision=precision,
        interpret=interpret,
    )
    with jax.named_scope(f"grouped_gated_matmul_{options.implementation}"):
        return gradients.gated_product(x, gate, up, group_sizes, activation, options)


def grouped_outer(
    x: Float[Array, "M D"],
    y: Float[Array, "M F"],
    group_sizes: Int[Array, "E"],
    *,
    implementation: str | None = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
    interpret: Any = False,
) -> Float[Array, "E D F"]:
    """For each group the sum over its rows of the outer product x[m] y[m]: what a kernel's gradient is.

    Exactly zero for an empty group. FLOPs: 2 D F per row of a group. Errors as for `grouped_matmul`.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(f"x {x.shape} and y {y.shape} must be [M D] and [M F] with the same M.")
    check_group_sizes(group_sizes, x.shape[0], group_sizes.shape[0])
    dtype = check_floating(x=x, y=y)
    options = options_for(
        implementation,
        IMPLEMENTATIONS,
        dtype=dtype,
        preferred_element_type=preferred_element_type,
        tiling=tiling,
        precision=precision,
        interpret=interpret,
    )
    with jax.named_scope(f"grouped_outer_{options.implementation}"):
        return gradients.outer(x, y, group_sizes, options)
