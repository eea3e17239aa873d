"""SVFit: fine-tuning by the largest singular values alone.

Source: Sun et al. 2024, "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values", section 3:
    W = U_r diag(s) V_r^T + W_res, only the r values s trained.
Deviations: stored as s + shift, the shift starting at zero and trained: the same function and the same steps.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from moejax.compress.singular_basis import num_kernels, singular_basis, smaller_side, stored
from moejax.core.errors import SpecError
from moejax.linear.spectral import Spectral


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVFit:
    """rank: how many singular values train, per kernel; more than there are means all. Raises SpecError below 1."""

    rank: int = 16

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SpecError(f"rank={self.rank} must be at least 1: singular values that train.")

    def convert(self, kernel: Float[np.ndarray, "... D F"]) -> Spectral:
        """The kernel [D F] or bank [E D F] with shifts of zero; what the rank leaves out is a frozen residual, if anything.

        Raises SpecError for NaN or infinite values.
        """
        u, spectrum, v = singular_basis(kernel)
        rank = min(self.rank, spectrum.shape[-1])
        top, largest, bottom = u[..., :rank], spectrum[..., :rank], v[..., :rank, :]
        residual = None
        if rank < spectrum.shape[-1]:
            residual = stored(kernel - (top * largest[..., None, :]) @ bottom)
        shift = stored(np.zeros_like(largest))
        return Spectral(stored(top), stored(largest), shift, stored(bottom), residual, rectified=False)

    def num_trained(self, kernel: Float[np.ndarray, "... D F"]) -> int:
        """The rank, or the smaller of D and F, per kernel."""
        return num_kernels(kernel) * min(self.rank, smaller_side(kernel))


EXAMPLES = (SVFit(rank=2), SVFit())
