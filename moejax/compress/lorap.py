"""LoRAP's half for attention: decompositions weighted by the size of the inputs, and more ranks for values than for queries.

Source: Li et al. 2024, "LoRAP: Transformer Sub-Layers Deserve Differentiated Structured Compression for Large Language
    Models", section 3.2: W diag(||X_j||_2) truncated; queries and keys keep fewer parameters than values and outputs,
    which are further from low rank. Its other half, for feed-forward layers, is `lorap_channels`.
Deviations: the weights' roles are read from their names. The scale is not inverted (see `weighted`).
"""

import dataclasses
import re
from typing import ClassVar

import numpy as np

from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.compress.weighted_method import WeightedMethod, field
from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lorap(WeightedMethod):
    """||diag(||X_j||_2) (W - W_r)||_F is least, X_j the j-th column of the calibration data.

    query_key_share: the share of its parameters that a query or key keeps, where a value or output keeps 1 share; only
    the allocation 'uniform' knows it. query_key: a regex of such weights' names.
    Raises SpecError for a share that is not positive, or a bad regex.
    """

    needs: ClassVar[tuple[str, ...]] = ("second_moment",)

    query_key_share: float = 1 / 3
    query_key: str = r"(^|[/_])(q|k|query|key|q_proj|k_proj)([/_]|$)"

    def __post_init__(self) -> None:
        if self.query_key_share <= 0:
            raise SpecError(f"query_key_share={self.query_key_share} must be positive; 1 treats all weights alike.")
        try:
            re.compile(self.query_key)
        except re.error as error:
            raise SpecError(f"query_key={self.query_key!r} is not a regular expression ({error}).") from error

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L = diag(||X_j||^2)."""
        return np.diagonal(field(statistics, "second_moment")).copy(), None

    def share(self, name: str) -> float:
        """How much of its parameters the weight of this name keeps, in proportion to others."""
        return self.query_key_share if re.search(self.query_key, name) else 1.0


EXAMPLES = (Lorap(), Lorap(query_key_share=1.0))
