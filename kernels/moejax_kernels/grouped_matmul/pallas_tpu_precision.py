"""The precision of products on the TPU's matrix unit."""

from typing import Any

import jax
import jax.numpy as jnp


def dot_precision(dtype: Any, precision: str | jax.lax.Precision | None) -> jax.lax.Precision:
    """What the compiler of kernels knows of precisions: its default, and float32 in full ('high' becomes that).

    Operands of 16 bits are multiplied exactly in any case.
    """
    if jnp.dtype(dtype).itemsize <= 2 or precision is None:
        return jax.lax.Precision.DEFAULT
    known = jax.lax.Precision(precision)
    return jax.lax.Precision.DEFAULT if known == jax.lax.Precision.DEFAULT else jax.lax.Precision.HIGHEST
