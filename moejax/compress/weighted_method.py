"""What the methods that are optimal in a weighted norm share: each of them only says which weights.

Source: ours.
"""

import numpy as np
from jaxtyping import Float

from moejax.compress import weighted
from moejax.compress.contract import Factorisation
from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.core.errors import SpecError


class WeightedMethod:
    """A kernel method whose norm is trace(A^T L A R); a subclass brings L and R."""

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L and R, as `weighted.factorise` takes them."""
        raise NotImplementedError

    def factorise(
        self, kernel: Float[np.ndarray, "D F"], statistics: LeafStatistics | None, *, largest_rank: int | None = None
    ) -> Factorisation:
        """The best kernel of every rank in the weighted norm."""
        left, right = self.weights(statistics)
        return weighted.factorise(kernel, left=left, right=right, largest_rank=largest_rank)

    def error(
        self,
        kernel: Float[np.ndarray, "D F"],
        approximation: Float[np.ndarray, "D F"],
        statistics: LeafStatistics | None,
    ) -> float:
        """The weighted norm of the difference."""
        left, right = self.weights(statistics)
        return weighted.distance(kernel, approximation, left=left, right=right)


def field(statistics: LeafStatistics | None, name: str) -> Float[np.ndarray, "..."]:
    """One field in float64. Raises SpecError where it was not collected."""
    value = None if statistics is None else getattr(statistics, name)
    if value is None:
        raise SpecError(f"the statistics have no {name!r}, which this method needs; collect it, or give it.")
    return np.asarray(value, np.float64)


def mean_per_count(statistics: LeafStatistics | None, name: str) -> Float[np.ndarray, "..."]:
    """A sum over rows as a mean; zeros stay zeros where no row came by."""
    return field(statistics, name) / max(float(field(statistics, "count")), 1.0)
