"""What each rank is worth, by spectrum, Fisher information, measured loss, or learning: the input of `allocation`.

Source: ours; the criteria's sources are named in `allocation`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.compress.allocation import Matrix
from moejax.compress.factors import Factors
from moejax.compress.weighted_method import field
from moejax.compress.weights import Weight, replace
from moejax.linear.low_rank import LowRank

PROBED = (0.1, 0.3, 0.5, 0.75)  # parts of the largest rank at which 'sensitivity' measures the loss

Energies = list[Float[np.ndarray, "_"]]


def energies(matrices: Sequence[Matrix], factors: Factors) -> tuple[Energies, list[float]]:
    """Squared spectra up to the largest rank that is smaller than dense, and what lies beyond."""
    found, rests = [], []
    for matrix, (number, expert) in zip(matrices, places(matrices), strict=True):
        made = factors.of(number, expert, max(matrix.largest_rank, 1), keep=True)
        found.append(made.spectrum**2)
        rests.append(made.rest)
    return found, rests


def by_fisher(
    weights: Sequence[Weight], matrices: Sequence[Matrix], factors: Factors, energies: Energies, rests: list[float]
) -> tuple[Energies, list[float]]:
    """The matrices' squared plain norms times their mean Fisher information, divided among ranks as the spectra are.

    Half of it estimates how much the loss rises when a random perturbation of that size hits the kernel.
    """
    scaled, left = [], []
    for (number, expert), energy, rest in zip(places(matrices), energies, rests, strict=True):
        own = factors.statistics(number, expert)
        rows, examples = field(own, "fisher_rows"), max(float(field(own, "examples")), 1.0)
        kernel = weights[number].matrix(expert)
        importance = float(np.sum(rows)) / examples / kernel.size * float(np.vdot(kernel, kernel))
        total = float(np.sum(energy)) + rest
        scale = importance / total if total > 0 else 0.0
        scaled.append(energy * scale)
        left.append(rest * scale)
    return scaled, left


def measured(
    params: Any, weights: Sequence[Weight], factors: Factors, matrices: Sequence[Matrix], loss: Callable[[Any], Any]
) -> list[tuple[list[int], list[float]]]:
    """Per weight, ranks and the loss with this weight alone at that rank, the last of them dense.

    Calls `loss` at most len(PROBED) + 1 times per weight, and once for all.
    """
    dense, found = float(loss(params)), []
    for number, weight in enumerate(weights):
        cap = next(matrix.largest_rank for matrix in matrices if matrix.weight == number)
        ranks = sorted({1, *(max(1, round(part * cap)) for part in PROBED)} if cap else set())
        made = [factors.of(number, expert, ranks[-1], keep=True) for expert in range(weight.num_matrices) if ranks]
        losses = []
        for rank in ranks:
            leaf = weight.low_rank([(one.u[:, :rank], one.v[:rank]) for one in made])
            losses.append(float(loss(replace(params, {weight.name: leaf}))))
        found.append(([*ranks, cap + 1], [*losses, dense]))
    return found


def gated_loss(
    params: Any, weights: Sequence[Weight], factors: Factors, matrices: Sequence[Matrix], loss: Callable[[Any], Any]
) -> Callable[[Float[Array, "M R"]], Any]:
    """The loss as a function of gates [M R] on the components of those matrices that can be factorised.

    Holds the factors of all of them up to their largest rank in memory.
    """
    leaves = {}
    for number, weight in enumerate(weights):
        cap = next(matrix.largest_rank for matrix in matrices if matrix.weight == number)
        if cap:
            made = [factors.of(number, expert, cap, keep=True) for expert in range(weight.num_matrices)]
            leaves[weight.name] = weight.low_rank([(one.u[:, :cap], one.v[:cap]) for one in made]).cleared()

    def of_gates(gates: Float[Array, "M R"]) -> Any:
        nodes, start = {}, 0
        for name, leaf in leaves.items():
            count = leaf.u.shape[0] if leaf.u.ndim == 3 else 1
            own = gates[start : start + count, : leaf.u.shape[-1]].astype(leaf.u.dtype)
            start += count
            nodes[name] = LowRank(
                jnp.asarray(leaf.u) * (own[:, None, :] if leaf.u.ndim == 3 else own), jnp.asarray(leaf.v)
            )
        return loss(replace(params, nodes))

    return of_gates


def learned(
    method: Any, matrices: Sequence[Matrix], energies: Energies, allowed: Fraction, gated: Callable | None
) -> list[float]:
    """Real ranks by the method, of the matrices that can be factorised; the others get 0."""
    free = [i for i, matrix in enumerate(matrices) if matrix.largest_rank]
    if not free:
        return [0.0] * len(matrices)
    fixed = sum((matrix.dense_cost for matrix in matrices if not matrix.largest_rank), Fraction(0))
    ranks = method.learn_ranks(
        [matrices[i] for i in free], [energies[i] for i in free], float(allowed - fixed), loss=gated
    )
    every = np.zeros(len(matrices))
    every[free] = ranks
    return every.tolist()


def places(matrices: Sequence[Matrix]) -> list[tuple[int, int]]:
    """(number of the weight, expert) of every matrix."""
    seen: dict[int, int] = {}
    found = []
    for matrix in matrices:
        found.append((matrix.weight, seen.get(matrix.weight, 0)))
        seen[matrix.weight] = found[-1][1] + 1
    return found
