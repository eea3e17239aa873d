"""The truncated decomposition from products with a few random vectors, for kernels too large to decompose.

Source: Halko, Martinsson and Tropp 2011, "Finding structure with randomness", algorithms 4.4 (randomised subspace
    iteration) and 5.1 (direct decomposition).
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from moejax.compress.contract import Factorisation
from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import balance, distance, factorise
from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomisedSvd:
    """Nearly the least ||W - W_r||_F; `spectrum` and `rest` give the error that it really has.

    oversampling: random vectors beyond the rank. power_iterations: each squares the gap between what is kept and what is
    not, for two more products with the kernel. seed: of the random vectors.
    Raises SpecError for negative numbers.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    oversampling: int = 10
    power_iterations: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("oversampling", "power_iterations"):
            if getattr(self, name) < 0:
                raise SpecError(f"{name}={getattr(self, name)} must be at least 0.")

    def factorise(
        self, kernel: Float[np.ndarray, "D F"], statistics: LeafStatistics | None, *, largest_rank: int | None = None
    ) -> Factorisation:
        """About 4 (power_iterations + 1) D F (largest_rank + oversampling) FLOPs; without `largest_rank` it is exact."""
        del statistics
        size = min(kernel.shape)
        rank = size if largest_rank is None else min(largest_rank, size)
        columns = rank + self.oversampling
        if columns >= size:
            return factorise(kernel, largest_rank=rank)
        basis = self._range(kernel, columns)
        small = factorise(basis.T @ kernel, largest_rank=rank)
        rest = max(float(np.vdot(kernel, kernel)) - float(np.sum(small.spectrum**2)), 0.0)
        return Factorisation(*balance(basis @ small.u, small.v), small.spectrum, rest)

    def error(
        self,
        kernel: Float[np.ndarray, "D F"],
        approximation: Float[np.ndarray, "D F"],
        statistics: LeafStatistics | None,
    ) -> float:
        """The plain norm of the difference."""
        del statistics
        return distance(kernel, approximation)

    def _range(self, kernel: Float[np.ndarray, "D F"], columns: int) -> Float[np.ndarray, "D R"]:
        """Orthonormal columns that span nearly what the largest singular vectors on the left do."""
        draw = np.random.default_rng(self.seed).standard_normal((kernel.shape[1], columns))
        basis = np.linalg.qr(kernel @ draw)[0]
        for _ in range(self.power_iterations):
            basis = np.linalg.qr(kernel @ np.linalg.qr(kernel.T @ basis)[0])[0]
        return basis


EXAMPLES = (RandomisedSvd(), RandomisedSvd(oversampling=2, power_iterations=1, seed=1))
