"""Factorisations on demand, matrix by matrix, timed; kept in memory while they are small together.

Source: ours.
"""

import time
from collections.abc import Sequence

from moejax.compress.contract import Factorisation, KernelMethod
from moejax.compress.statistics import LeafStatistics
from moejax.compress.weights import Weight

KEPT_BYTES = 2**30  # of factorisations; those beyond it are computed again when their ranks are known


class Factors:
    """Of the matrices of these weights by one method. statistics: per weight, None where the method needs none."""

    def __init__(
        self, method: KernelMethod, weights: Sequence[Weight], statistics: Sequence[LeafStatistics | None]
    ) -> None:
        self._method, self._weights, self._statistics = method, weights, statistics
        self._kept: dict[tuple[int, int], tuple[int, Factorisation]] = {}
        self._bytes = 0
        self.seconds = [0.0] * len(weights)

    def of(self, weight: int, expert: int, largest_rank: int, *, keep: bool = False) -> Factorisation:
        """Of one matrix, for ranks up to `largest_rank`."""
        kept_rank, found = self._kept.get((weight, expert), (-1, None))
        if found is not None and kept_rank >= largest_rank:
            return found
        begin = time.perf_counter()
        own = self.statistics(weight, expert)
        made = self._method.factorise(self._weights[weight].matrix(expert), own, largest_rank=largest_rank)
        self.seconds[weight] += time.perf_counter() - begin
        size = made.u.nbytes + made.v.nbytes
        if keep and self._bytes + size <= KEPT_BYTES:
            self._kept[weight, expert] = (largest_rank, made)
            self._bytes += size
        return made

    def statistics(self, weight: int, expert: int) -> LeafStatistics | None:
        """Of one matrix."""
        own = self._statistics[weight]
        return own.expert(expert) if own is not None and len(self._weights[weight].shape) == 3 else own
