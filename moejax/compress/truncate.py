"""A weight cut to its ranks, and the report on it.

Source: ours.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.compress.factors import Factors
from moejax.compress.report import WeightReport
from moejax.compress.weights import Weight
from moejax.linear.low_rank import LowRank


def truncate(weight: Weight, ranks: Sequence[int | None], factors: Factors, number: int) -> tuple[Any, WeightReport]:
    """The leaf of these ranks (one per matrix; None where the weight stays as it is), and its report.

    number: the weight's in `factors`.
    """
    known = [rank for rank in ranks if rank is not None]
    if len(known) < len(ranks):
        return weight.node, describe(
            weight, weight.node, own_error=0.0, plain_error=0.0, seconds=factors.seconds[number]
        )
    pairs, lost, total = [], 0.0, 0.0
    for expert, rank in enumerate(known):
        made = factors.of(number, expert, rank)
        pairs.append((made.u[:, :rank], made.v[:rank]))
        lost += float(np.sum(made.spectrum[rank:] ** 2)) + made.rest
        total += float(np.sum(made.spectrum**2)) + made.rest
    begin = time.perf_counter()
    leaf = weight.low_rank(pairs)
    plain = plain_error(weight, leaf)
    seconds = factors.seconds[number] + time.perf_counter() - begin
    own = float(np.sqrt(lost / total)) if total > 0 else 0.0
    return leaf, describe(weight, leaf, own_error=own, plain_error=plain, seconds=seconds)


def describe(
    weight: Weight, leaf: Any, *, own_error: float | None, plain_error: float | None, seconds: float
) -> WeightReport:
    """The report on a weight that is now `leaf`."""
    matrices, size = weight.num_matrices, int(np.prod(weight.shape))
    low_rank = isinstance(leaf, LowRank)
    ranks: tuple[int | None, ...] = (None,) * matrices
    if low_rank:
        ranks = leaf.ranks or (leaf.u.shape[-1],) * matrices
    return WeightReport(
        name=weight.name,
        shape=weight.shape,
        ranks=ranks,
        params_before=size,
        params_after=leaf.num_params() if low_rank else size,
        flops_before=2 * size // matrices,
        flops_after=leaf.flops_per_row() if low_rank else 2 * size // matrices,
        own_error=own_error,
        plain_error=plain_error,
        seconds=seconds,
    )


def expert_factors(leaf: LowRank, expert: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one matrix u [D r] and v [r F] in the dtype they are stored in, without padding."""
    if leaf.u.ndim == 2:
        return np.asarray(leaf.u), np.asarray(leaf.v)
    rank = leaf.u.shape[-1] if leaf.ranks is None else leaf.ranks[expert]
    return np.asarray(leaf.u[expert])[:, :rank], np.asarray(leaf.v[expert])[:rank]


def plain_error(weight: Weight, leaf: LowRank) -> float:
    """Relative, in the Frobenius norm, of the factors as they are stored; large products in float32."""
    dtype: Any = np.float64 if np.prod(weight.shape[-2:]) < 2**22 else np.float32
    lost, total = 0.0, 0.0
    for expert in range(weight.num_matrices):
        kernel = weight.matrix(expert)
        u, v = (part.astype(dtype) for part in expert_factors(leaf, expert))
        total += float(np.vdot(kernel, kernel))
        kernel -= u @ v
        lost += float(np.vdot(kernel, kernel))
    return float(np.sqrt(lost / total)) if total > 0 else 0.0
