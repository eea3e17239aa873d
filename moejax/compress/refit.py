"""Layer after layer, the factors fitted again on what the compressed layers before now put out.

Source: Wang et al. 2024 (SVD-LLM), section 3.2, "layer-wise closed-form update".
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moejax.compress import statistic_checks
from moejax.compress.report import WeightReport
from moejax.compress.statistics import LeafStatistics, Statistics
from moejax.compress.truncate import describe, expert_factors, plain_error
from moejax.compress.weighted_method import field
from moejax.compress.weights import Weight, replace
from moejax.linear.low_rank import LowRank

Collect = Callable[[Any, Sequence[str]], Statistics]  # (params, names of weights) -> their statistics on these params


def refit_in_order(
    params: Any,
    method: Any,
    weights: Sequence[Weight],
    nodes: dict[str, Any],
    reports: list[WeightReport],
    collect: Collect,
) -> tuple[dict[str, Any], list[WeightReport]]:
    """Other nodes and reports. `nodes`: the truncated leaves by name; own errors are then those on the new statistics.

    Weights that lie in one node of the tree (the queries, keys and values of a layer, the kernels of a bank) share one
    collection; `weights` are in the order of depth. Costs one pass over the calibration data per such node.
    """
    nodes, found = dict(nodes), {report.name: report for report in reports}
    for _, group in itertools.groupby(weights, key=lambda weight: weight.name.rpartition("/")[0]):
        small = [weight for weight in group if isinstance(nodes[weight.name], LowRank)]
        if not small:
            continue
        statistics = collect(replace(params, nodes), [weight.name for weight in small])
        for weight in small:
            own = statistic_checks.check(weight, statistics, method.needs, who="the update")
            assert own is not None
            begin = time.perf_counter()
            leaf, error = _refit(weight, nodes[weight.name], method, own)
            nodes[weight.name] = leaf
            seconds = found[weight.name].seconds + time.perf_counter() - begin
            plain = plain_error(weight, leaf)
            found[weight.name] = describe(weight, leaf, own_error=error, plain_error=plain, seconds=seconds)
    return nodes, [found[report.name] for report in reports]


def _refit(weight: Weight, leaf: LowRank, method: Any, statistics: LeafStatistics) -> tuple[LowRank, float]:
    pairs, lost, total = [], 0.0, 0.0
    for expert in range(weight.num_matrices):
        own = statistics.expert(expert) if len(weight.shape) == 3 else statistics
        kernel = weight.matrix(expert)
        u, v = (part.astype(np.float64) for part in expert_factors(leaf, expert))
        u, v = method.refit(kernel, (u, v), field(own, "second_moment"))
        pairs.append((u, v))
        lost += method.error(kernel, u @ v, own) ** 2
        total += method.error(kernel, np.zeros_like(kernel), own) ** 2
    return weight.low_rank(pairs), float(np.sqrt(lost / total)) if total > 0 else 0.0
