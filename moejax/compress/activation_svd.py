"""Activation-aware decomposition: rows of the kernel count by how large their input usually is.

Source: Yuan et al. 2023, "ASVD: Activation-aware Singular Value Decomposition for Compressing Large Language Models",
    equations 5 to 7: W = S^-1 (S W), S = diag(mean |x_i|^alpha), S W truncated.
Deviations: S is not inverted (see `weighted`), so that inputs which are always zero are allowed; the ranks come from
    `allocation`, of which 'sensitivity' is the paper's search.
"""

import dataclasses
from typing import ClassVar

from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.compress.weighted_method import WeightedMethod, mean_per_count
from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationSvd(WeightedMethod):
    """||diag((mean |x|)^alpha) (W - W_r)||_F is least.

    alpha: 0 is the plain decomposition. Raises SpecError for a negative one.
    """

    needs: ClassVar[tuple[str, ...]] = ("absolute",)

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise SpecError(f"alpha={self.alpha} must not be negative: rows would count less, the larger their input.")

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L is the square of the scale."""
        return mean_per_count(statistics, "absolute") ** (2 * self.alpha), None


EXAMPLES = (ActivationSvd(), ActivationSvd(alpha=1.0))
