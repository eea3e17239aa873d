"""Kernels in their own singular basis, on the host, for the methods that train a spectrum.

Source: ours.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError


def singular_basis(
    kernel: Float[np.ndarray, "... D F"], *, complete: bool = False
) -> tuple[Float[np.ndarray, "... D R"], Float[np.ndarray, "... N"], Float[np.ndarray, "... R2 F"]]:
    """u, spectrum and v of kernel = u diag(spectrum) v in float64, largest first; a bank expert by expert.

    complete: u [D D] and v [F F] are square. Raises SpecError for a kernel with NaN or infinite values.
    """
    if not np.all(np.isfinite(kernel)):
        raise SpecError(f"a kernel of shape {kernel.shape} holds NaN or infinite values; it has no singular values.")
    u, spectrum, v = np.linalg.svd(kernel.astype(np.float64), full_matrices=complete)
    return u, spectrum, v


def num_kernels(kernel: Float[np.ndarray, "... D F"]) -> int:
    """1, or E for a bank."""
    return int(np.prod(kernel.shape[:-2], dtype=int))


def smaller_side(kernel: Float[np.ndarray, "... D F"]) -> int:
    """How many singular values it has: min(D, F)."""
    return min(kernel.shape[-2:])


def stored(array: np.ndarray) -> Float[Array, "..."]:
    """In float32: bases in fewer digits would not give the kernel back."""
    return jnp.asarray(array.astype(np.float32))
