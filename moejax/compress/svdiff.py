"""SVDiff: fine-tuning by a shift of each singular value.

Source: Han et al. 2023, "SVDiff: Compact Parameter Space for Diffusion Fine-Tuning", equation 1: W = U diag(relu(s + d)) V^T,
    d trained. Shifts of several tunings add up ("style mixing", section 3.4).
Deviations: kernels only, [D F] as they are multiplied; the paper also reshapes convolutions. A singular value of exactly zero
    stays zero in the first step, since relu has no slope there.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from moejax.compress.singular_basis import num_kernels, singular_basis, smaller_side, stored
from moejax.linear.spectral import Spectral


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVDiff:
    """Every singular value trains; the basis is frozen. Nothing to choose."""

    def convert(self, kernel: Float[np.ndarray, "... D F"]) -> Spectral:
        """The kernel [D F] or bank [E D F] with shifts of zero. Raises SpecError for NaN or infinite values."""
        u, spectrum, v = singular_basis(kernel)
        return Spectral(stored(u), stored(spectrum), stored(np.zeros_like(spectrum)), stored(v))

    def num_trained(self, kernel: Float[np.ndarray, "... D F"]) -> int:
        """The smaller of D and F, per kernel."""
        return num_kernels(kernel) * smaller_side(kernel)


EXAMPLES = (SVDiff(),)
