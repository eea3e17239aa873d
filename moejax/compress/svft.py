"""SVFT: fine-tuning by a sparse change in the kernel's singular basis.

Source: Lingam et al. 2024, "SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors", section 3: W + U M V^T, M sparse with
    a plain (diagonal), banded, random or top-k pattern, only its entries trained.
Deviations: top-k takes the pairs with the largest |u_i . v_j|, which exists for square kernels only; others are refused.
    `complete` squares both bases, so that the full pattern reaches every change of a rectangular kernel too.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from moejax.compress.singular_basis import num_kernels, singular_basis, stored
from moejax.core.errors import SpecError
from moejax.linear.sparse_spectral import SparseSpectral, banded, scattered, strongest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVFT:
    """pattern: 'plain' (the diagonal), 'banded', 'random', 'top_k' or 'full'. band: diagonals on either side of the main one.

    count: entries of 'random' and 'top_k', per kernel; more than M has means all. seed: of 'random'.
    complete: bases square, U [D D] and V [F F], and M [D F]; else M is square, of the smaller side.
    Raises SpecError for a negative band, and for 'random' or 'top_k' without a count.
    """

    pattern: Literal["plain", "banded", "random", "top_k", "full"] = "plain"
    band: int = 1
    count: int | None = None
    seed: int = 0
    complete: bool = False

    def __post_init__(self) -> None:
        if self.band < 0:
            raise SpecError(f"band={self.band} must be at least 0 (0 is the diagonal alone).")
        if self.pattern in ("random", "top_k") and (self.count is None or self.count < 1):
            raise SpecError(f"pattern={self.pattern!r} needs a count of at least 1, the entries of M that train.")

    def convert(self, kernel: Float[np.ndarray, "... D F"]) -> SparseSpectral:
        """The kernel [D F] or bank [E D F] with coefficients of zero.

        Raises SpecError for NaN or infinite values, and for 'top_k' of a kernel that is not square.
        """
        u, _, v = singular_basis(kernel, complete=self.complete)
        pattern = self._pattern(u, v)
        own = bool(pattern) and isinstance(pattern[0], tuple)
        entries = len(pattern[0]) if own else len(pattern)
        coefficients = stored(np.zeros((*kernel.shape[:-2], entries)))
        return SparseSpectral(stored(u), coefficients, stored(v), stored(kernel), pattern)

    def num_trained(self, kernel: Float[np.ndarray, "... D F"]) -> int:
        """The entries of the pattern, per kernel."""
        rows, columns = self._size(kernel)
        if self.pattern in ("random", "top_k"):
            return num_kernels(kernel) * min(self.count or 0, rows * columns)
        return num_kernels(kernel) * len(self._fixed(rows, columns))

    def _size(self, kernel: Float[np.ndarray, "... D F"]) -> tuple[int, int]:
        depth, width = kernel.shape[-2:]
        return (depth, width) if self.complete else (min(depth, width),) * 2

    def _fixed(self, rows: int, columns: int) -> tuple[int, ...]:
        """A pattern that does not look at the kernel."""
        if self.pattern == "full":
            return tuple(range(rows * columns))
        if self.pattern == "random":
            return scattered(rows, columns, min(self.count or 0, rows * columns), self.seed)
        return banded(rows, columns, self.band if self.pattern == "banded" else 0)

    def _pattern(self, u: np.ndarray, v: np.ndarray) -> tuple:
        rows, columns = u.shape[-1], v.shape[-2]
        if self.pattern != "top_k":
            return self._fixed(rows, columns)
        if u.shape[-2] != v.shape[-1]:
            raise SpecError(
                f"pattern='top_k' compares singular vectors of both sides, here of {u.shape[-2]} and {v.shape[-1]} entries; "
                "take 'banded' or 'random' for kernels that are not square."
            )
        alike = np.swapaxes(u, -1, -2) @ np.swapaxes(v, -1, -2)
        count = min(self.count or 0, rows * columns)
        if alike.ndim == 2:
            return strongest(alike, count)
        return tuple(strongest(one, count) for one in alike)


EXAMPLES = (SVFT(), SVFT(pattern="banded", band=2), SVFT(pattern="random", count=5, complete=True))
