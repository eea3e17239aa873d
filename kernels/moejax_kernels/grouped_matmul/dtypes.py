"""The dtype that two operands are multiplied in."""

from typing import Any

import jax.numpy as jnp


def common_dtype(*dtypes: Any) -> jnp.dtype:
    """The dtype itself when all are the same; else the widest of them, float32 at least.

    Stated here, and not left to promotion, so that it holds under strict promotion too. Source: ours.
    """
    names = {jnp.dtype(dtype) for dtype in dtypes}
    if len(names) == 1:
        return names.pop()
    return max((jnp.dtype(jnp.float32), *names), key=lambda dtype: jnp.finfo(dtype).bits)
