"""The truncated singular value decomposition: the kernel of each rank that is nearest in the plain norm. Needs no data.

Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank".
"""

import dataclasses
from typing import ClassVar

from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.compress.weighted_method import WeightedMethod


@dataclasses.dataclass(frozen=True, kw_only=True)
class Svd(WeightedMethod):
    """||W - W_r||_F is least: the root of the sum of the squared singular values after the r-th."""

    needs: ClassVar[tuple[str, ...]] = ()

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """None."""
        return None, None


EXAMPLES = (Svd(),)
