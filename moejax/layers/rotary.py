"""Rotary positions: pairs of a head's numbers are turned by angles that grow with the position.

Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", equations 13 to 15 and 34.
Deviations: number i is paired with number i + d/2 and not with its neighbour, as in the checkpoints of Hugging Face; a
    permutation of the columns of the query and key kernels turns one into the other.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError


def check_rotary(head_dim: int, base: float) -> None:
    """Raises SpecError for an odd width of heads, or a base that is not above 1."""
    if head_dim < 2 or head_dim % 2:
        raise SpecError(f"head_dim={head_dim} must be even and at least 2: rotary positions turn pairs of numbers.")
    if not base > 1:
        raise SpecError(f"rope_base={base} must be above 1 (10000 is usual; larger reaches further).")


def rotate(x: Float[Array, "B H T d"], positions: Int[Array, "#B T"], base: float) -> Float[Array, "B H T d"]:
    """Heads with pair i turned by the angle position * base^(-2i/d) in radians; in the dtype of x.

    positions: of each token in its sequence, from 0; a leading axis of 1 serves the whole batch.
    """
    half = x.shape[-1] // 2
    frequency = jnp.asarray(base ** -(np.arange(half) / half), jnp.float32)
    angle = jnp.einsum("BT,f->BTf", positions.astype(jnp.float32), frequency)[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
