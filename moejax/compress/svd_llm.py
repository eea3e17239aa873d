"""Truncation-aware whitening: what a dropped singular value costs is exactly its size in the outputs on the data.

Source: Wang et al. 2024, "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
    section 3.1 (whitening) and 3.2 (the sequential update of the factor on the side of the outputs, in closed form).
Deviations: the second moment is decomposed by eigenvalues, not by Cholesky, and never inverted (see `weighted`): singular
    and nearly singular ones are allowed. The update keeps the old factor in directions that the new data do not reach.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight, root
from moejax.compress.weighted_method import WeightedMethod, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class SvdLlm(WeightedMethod):
    """||X (W - W_r)||_F is least, X [N D] the rows of the calibration data, known by X^T X."""

    needs: ClassVar[tuple[str, ...]] = ("second_moment",)

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L = X^T X."""
        return field(statistics, "second_moment"), None

    def refit(
        self,
        kernel: Float[np.ndarray, "D F"],
        factors: tuple[Float[np.ndarray, "D R"], Float[np.ndarray, "R F"]],
        second_moment: Float[np.ndarray, "D D"],
    ) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, "R F"]]:
        """The given u, and the v for which ||X (W - u v)||_F is least on these inputs X of the compressed model.

        Starts from the given v and adds the least correction that reaches the minimum, so the loss never rises.
        """
        u, v = factors
        half = root(second_moment)
        correction, *_ = np.linalg.lstsq(half @ u, half @ (kernel - u @ v), rcond=None)
        updated = v + correction
        before, after = (np.linalg.norm(half @ (kernel - u @ w)) for w in (v, updated))
        return u, updated if after < before else v


EXAMPLES = (SvdLlm(),)
