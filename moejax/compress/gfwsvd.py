"""Generalised Fisher-weighted decomposition: the Fisher information as a Kronecker product of two matrices.

Source: Chekalina et al. 2025, "Generalized Fisher-Weighted SVD: Scalable Kronecker-Factored Fisher Approximation for
    Compressing Large Language Models": E[vec(G) vec(G)^T] is nearest to B x A (Kronecker), and the kernel of a rank that
    minimises the quadratic form of B x A is truncated between roots of A and B.
Deviations: eigen-decompositions instead of Cholesky factors (the answer is the same where both exist, and singular factors
    are allowed). The nearest Kronecker product is found by as many power iterations as there were passes of collection,
    each of which needs no more than G B G^T and G^T A G per example, instead of by a Lanczos solver over stored gradients.
"""

import dataclasses
from typing import ClassVar

from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.compress.weighted_method import WeightedMethod, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gfwsvd(WeightedMethod):
    """trace(X^T A X B) is least, X = W - W_r, A [D D] and B [F F] the Kronecker factors, whose scales do not matter."""

    needs: ClassVar[tuple[str, ...]] = ("kronecker",)

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L = A, R = B."""
        return field(statistics, "kronecker_in"), field(statistics, "kronecker_out")


EXAMPLES = (Gfwsvd(),)
