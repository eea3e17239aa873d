"""The one entry: `grouped_matmul`, and the implementations it can be asked for."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax_kernels.grouped_matmul import reference, xla
from moejax_kernels.grouped_matmul.dtypes import common_dtype

IMPLEMENTATIONS = {"reference": reference.grouped_matmul, "xla": xla.grouped_matmul}


def grouped_matmul(
    x: Float[Array, "M D"],
    w: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    implementation: str | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
) -> Float[Array, "M F"]:
    """Row m times the kernel of its group: the first group_sizes[0] rows times w[0], the next times w[1], and so on.

    Rows after the last group are zero in the output and get a zero gradient; the kernel of an empty group gets a
    gradient of exactly zero. Rows that the sizes claim beyond M are ignored. FLOPs: 2 D F per row of a group.
    implementation: a name of IMPLEMENTATIONS; None picks 'xla'. preferred_element_type: dtype of the output
    (None: that of x and w, float32 at least where they differ). Differentiable backwards, any number of times, in x and w.
    Raises ValueError for shapes that do not fit and for an unknown implementation; nothing falls back silently.
    Source: ours.
    """
    if x.ndim != 2 or w.ndim != 3 or group_sizes.ndim != 1:
        raise ValueError(f"need x [M D], w [E D F], group_sizes [E]; got {x.shape}, {w.shape}, {group_sizes.shape}.")
    if x.shape[1] != w.shape[1] or w.shape[0] != group_sizes.shape[0]:
        raise ValueError(f"x {x.shape}, w {w.shape} and group_sizes {group_sizes.shape} disagree on D or E.")
    name = "xla" if implementation is None else implementation
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={name!r} is not one of {', '.join(sorted(IMPLEMENTATIONS))}.")
    dtype = common_dtype(x.dtype, w.dtype) if preferred_element_type is None else preferred_element_type
    return IMPLEMENTATIONS[name](x, w, group_sizes, precision=precision, dtype=jnp.dtype(dtype))
