"""Fisher-weighted decomposition: rows of the kernel count by how much the loss depends on them.

Source: Hsu et al. 2022, "Language model compression with weighted low-rank factorization", equations 4 to 7:
    I_i = sum_j E[G_ij^2], D = diag(sqrt(I)), D W truncated, D^-1 put back.
Deviations: D is not inverted (see `weighted`), so that rows without any gradient are allowed.
"""

import dataclasses
from typing import ClassVar

from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.compress.weighted_method import WeightedMethod, field
from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fwsvd(WeightedMethod):
    """||diag(sqrt(I)) (W - W_r)||_F is least, I_i the mean over examples of row i's squared gradients, summed."""

    needs: ClassVar[tuple[str, ...]] = ("fisher_rows",)

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L is diag(I)."""
        rows, examples = field(statistics, "fisher_rows"), float(field(statistics, "examples"))
        if (rows < 0).any():
            raise SpecError(f"fisher_rows has negative entries (least {rows.min():.3g}); they are sums of squares.")
        return rows / max(examples, 1.0), None


EXAMPLES = (Fwsvd(),)
