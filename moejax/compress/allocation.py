"""Who gets how many ranks: a budget for all matrices together, spent one rank at a time where it does most.

A matrix [D F] of rank r costs r (D + F) numbers; where that is no less than D F it stays dense, which gives it back
unchanged. Every matrix has rank 1 at least. Matrices of one weight (the experts of a bank) have ranks of their own, but are
dense together. What an allocation decides is only the *urgency* of each step, per unit of cost: urgency[r] that of the step
from rank r to r + 1, and the last entry that of the step from the largest rank to dense. The budget is never exceeded, and
what is left is less than the next step of any matrix that could still make one.

Source: ours (greedy by gain per cost, which is optimal up to the last step where gains fall, as those of spectra do); the
    four criteria: uniform; own-norm error, as in Wang et al. 2025 (SVD-LLM V2); Fisher information, as in Hsu et al. 2022;
    measured loss, as in Yuan et al. 2023 (ASVD, sensitivity-based truncation rank search).
"""

import dataclasses
import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError

Urgency = Float[np.ndarray, "_"]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """One kernel [D F] to be factorised: depth D, width F.

    weight: the number of the weight it belongs to. price: what one of its numbers costs: 1 in parameters; in FLOPs per row
    2, and 2 / E in a bank of E experts among which the rows are taken to be spread evenly.
    """

    depth: int
    width: int
    weight: int
    price: Fraction = Fraction(1)

    @property
    def rank_cost(self) -> Fraction:
        """Of one rank."""
        return (self.depth + self.width) * self.price

    @property
    def dense_cost(self) -> Fraction:
        """Of the matrix as it is."""
        return self.depth * self.width * self.price

    @property
    def largest_rank(self) -> int:
        """The largest whose factors are smaller than the matrix; 0 where there is none, so that it stays dense."""
        return max(self.depth * self.width - 1, 0) // (self.depth + self.width)

    @property
    def last_cost(self) -> Fraction:
        """Of the step from the largest rank to dense."""
        return self.dense_cost - self.largest_rank * self.rank_cost


def part_of(total: Fraction | int, budget: float) -> Fraction:
    """The part `budget` of the total, exactly as the number is written: 0.3 is three tenths."""
    return Fraction(str(float(budget))) * total


def dense_total(matrices: Sequence[Matrix]) -> Fraction:
    """What all cost uncompressed."""
    return sum((matrix.dense_cost for matrix in matrices), Fraction(0))


def smallest(matrices: Sequence[Matrix]) -> Fraction:
    """What all cost at rank 1."""
    return sum((m.rank_cost if m.largest_rank else m.dense_cost for m in matrices), Fraction(0))


def allocate(matrices: Sequence[Matrix], urgency: Sequence[Urgency], budget: Fraction, *, unit: str = "params") -> list:
    """The rank of every matrix, None where it stays dense. Raises SpecError naming the smallest reachable budget."""
    check_reachable(matrices, budget, unit)
    scale = math.lcm(*(matrix.price.denominator for matrix in matrices))  # integers add faster than fractions
    costs = [(int(m.rank_cost * scale), int(m.last_cost * scale)) for m in matrices]
    left = math.floor((budget - smallest(matrices)) * scale)
    ranks: list[int | None] = [1 if matrix.largest_rank else None for matrix in matrices]
    members: dict[int, list[int]] = {}
    for i, matrix in enumerate(matrices):
        members.setdefault(matrix.weight, []).append(i)
    heap: list[tuple[float, float, int, int]] = []

    def offer(i: int) -> None:
        """Puts the next step of matrix i on the heap, if it has one."""
        rank, group = ranks[i], members[matrices[i].weight]
        if rank is not None and rank < matrices[i].largest_rank:
            share = float(rank * matrices[i].rank_cost / matrices[i].dense_cost)
            heapq.heappush(heap, (-float(urgency[i][rank]), share, i, costs[i][0]))
        elif rank is not None and all(ranks[j] == matrices[j].largest_rank for j in group):
            mean = float(np.mean([urgency[j][-1] for j in group]))
            heapq.heappush(heap, (-mean, 1.0, i, sum(costs[j][1] for j in group)))

    for i in range(len(matrices)):
        if ranks[i] is not None and (matrices[i].largest_rank > 1 or members[matrices[i].weight][0] == i):
            offer(i)
    while heap:
        _, _, i, cost = heapq.heappop(heap)
        if cost > left:
            continue
        left -= cost
        rank = ranks[i]
        if rank is not None and rank < matrices[i].largest_rank:
            ranks[i] = rank + 1
            offer(i)
        else:
            for j in members[matrices[i].weight]:
                ranks[j] = None
    return ranks


def check_reachable(matrices: Sequence[Matrix], budget: Fraction, unit: str = "params") -> None:
    """Raises SpecError when the budget is below that of rank 1 everywhere."""
    least, total = smallest(matrices), dense_total(matrices)
    if budget < least:
        raise SpecError(
            f"a budget of {float(budget):.6g} {unit} ({float(budget / total):.4g} of {float(total):.6g}) cannot be met: the "
            f"smallest reachable is {float(least):.6g} (budget={float(least / total):.4g}), rank 1 everywhere; raise the "
            "budget, or leave narrow weights out with `only`."
        )


def uniform(matrices: Sequence[Matrix], shares: Sequence[float] | None = None) -> list[Urgency]:
    """The same fraction of every matrix's cost, or fractions in proportion to `shares`."""
    every = [1.0] * len(matrices) if shares is None else shares
    return [
        -np.arange(matrix.largest_rank + 1) * float(matrix.rank_cost / matrix.dense_cost) / share
        for matrix, share in zip(matrices, every, strict=True)
    ]


def by_energy(
    matrices: Sequence[Matrix], energies: Sequence[Float[np.ndarray, "_"]], rests: Sequence[float]
) -> list[Urgency]:
    """What each rank takes from the sum of all errors. energies: squared spectra, in units that add up over matrices."""
    found = []
    for matrix, energy, rest in zip(matrices, energies, rests, strict=True):
        cap = matrix.largest_rank
        steps = np.zeros(cap + 1)
        steps[: min(cap, len(energy))] = energy[:cap] / float(matrix.rank_cost)
        if matrix.last_cost:
            steps[cap] = (np.sum(energy[cap:]) + rest) / float(matrix.last_cost)
        found.append(steps)
    return found


def relative_energies(
    matrices: Sequence[Matrix], energies: Sequence[Float[np.ndarray, "_"]], rests: Sequence[float]
) -> tuple[list[np.ndarray], list[float]]:
    """The same as parts of their weight's total, so that no weight counts more for being larger. Experts share one total."""
    totals: dict[int, float] = {}
    for matrix, energy, rest in zip(matrices, energies, rests, strict=True):
        totals[matrix.weight] = totals.get(matrix.weight, 0.0) + float(np.sum(energy)) + rest
    scales = [1 / totals[matrix.weight] if totals[matrix.weight] > 0 else 0.0 for matrix in matrices]
    scaled = [energy * scale for energy, scale in zip(energies, scales, strict=True)]
    return scaled, [rest * scale for rest, scale in zip(rests, scales, strict=True)]


def by_sensitivity(
    matrices: Sequence[Matrix], curves: Sequence[tuple[Sequence[int], Sequence[float]]]
) -> list[Urgency]:
    """By measured loss. curves: per weight, ranks in rising order and the loss at each, the last being dense.

    All matrices of a weight had the same rank when it was measured. Between the points, and where loss does not fall, the
    lower convex hull counts.
    """
    found = []
    for matrix in matrices:
        count = sum(other.weight == matrix.weight for other in matrices)
        cap = matrix.largest_rank
        ranks, losses = curves[matrix.weight]
        costs = [float(matrix.dense_cost if r > cap else r * matrix.rank_cost) * count for r in ranks]
        hull = _lower_hull(costs, losses)
        places = [float(r * matrix.rank_cost) * count for r in range(cap + 1)]
        found.append(np.asarray([_fall_after(hull, place) for place in places]))
    return found


def by_learned_ranks(matrices: Sequence[Matrix], learned: Sequence[float]) -> list[Urgency]:
    """Towards real-valued ranks: the further away, the sooner."""
    return [rank - np.arange(matrix.largest_rank + 1) for matrix, rank in zip(matrices, learned, strict=True)]


def _lower_hull(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    hull: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-30)


def _fall_after(hull: list[tuple[float, float]], place: float) -> float:
    for a, b in zip(hull, hull[1:], strict=False):
        if place < b[0]:
            return -_slope(a, b)
    return 0.0
