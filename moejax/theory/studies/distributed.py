"""A mixture fitted on shards and reduced is nearly as good as one fitted on all data; one that is averaged is not.

Each shard numbers its experts in its own order. The reduction does not mind; an average over shards, expert by expert, does.
Source: Chamroukhi and Pham 2023 ("Distributed learning of mixtures of experts"), sections 3 to 5.
Deviations: the truth is ours, smaller than theirs, and local starts lie near it, in an order of each shard's own, where theirs are groups by
    k-means: another local maximum is no matter of the reduction. Work is counted in rows that EM visits, not in seconds.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError
from moejax.theory.aggregation import (
    SoftmaxExperts,
    affine,
    averaged,
    grouped,
    local_fits,
    permuted,
    reduced,
    sample,
)
from moejax.theory.findings import Chart, Curve, Expected, Finding, judged, untestable
from moejax.theory.studies.contract import Raw

_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed:
    """shards: numbers of them, 1 first, which is the global estimate. A quarter of one shard's size is the supporting sample.

    Raises SpecError for shards that do not begin with 1 or do not divide the examples, and for fewer than 5 replicates.
    """

    num_examples: int = 20_000
    shards: tuple[int, ...] = (1, 4, 16)
    replicates: int = 12
    seed: int = 0
    start_noise: float = 0.3
    max_steps: int = 1000
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        divided = all(self.num_examples % count == 0 for count in self.shards)
        if len(self.shards) < 2 or self.shards[0] != 1 or not divided or self.replicates < 5:
            raise SpecError(
                f"shards={self.shards} must begin with 1, go on, and divide num_examples={self.num_examples}; replicates="
                f"{self.replicates} must be at least 5."
            )

    @property
    def claim(self) -> str:
        return "Local estimates reduced by optimal transport are about as accurate as the global one, at a fraction of the time."

    @property
    def protocol(self) -> str:
        return (
            f"Three experts of four inputs, {self.num_examples:,} observations, EM on {self.shards} shards to a relative tolerance of "
            f"{self.tolerance:g}, {self.replicates} replicates; the mean squared error of all parameters, experts matched."
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(str(count) for count in self.shards)

    def estimates(self, part: str) -> Raw:
        """Mean squared errors [R] of the 'reduced' and of the 'averaged' estimate; 'rows', the most that EM visits on a shard; 'rise', the
        largest rise of the reduction's cost in a step; 'converged', whether EM was on all shards.
        """
        count = int(part)
        rows = self.num_examples // count
        found: dict[str, list[Any]] = {name: [] for name in ("reduced", "averaged", "rows", "rise", "converged")}
        for replicate in range(self.replicates):
            draw = np.random.default_rng((self.seed, replicate))  # the same data for every number of shards
            inputs = affine(draw.standard_normal((self.num_examples, 4)))
            y = sample(truth(), inputs, draw)
            support = inputs[draw.permutation(self.num_examples)[: max(rows // 4, 50)]]
            starts = jax.tree.map(lambda *leaves: np.stack(leaves), *(self._start(draw) for _ in range(count)))
            with jax.enable_x64(True):
                data = (inputs.reshape(count, rows, -1), y.reshape(count, rows))
                fits = local_fits(*jax.tree.map(jnp.asarray, (starts, *data)), self.max_steps, self.tolerance)
                local, steps, converged = jax.tree.map(np.asarray, fits)
                start = grouped(local, draw)
                one, costs = jax.tree.map(np.asarray, reduced(*jax.tree.map(jnp.asarray, (local, start, support))))
            found["reduced"].append(error(one if count > 1 else jax.tree.map(lambda leaf: leaf[0], local)))
            found["averaged"].append(error(averaged(local)))
            found["rows"].append(float(steps.max() * rows))
            found["rise"].append(float(np.diff(costs).max()))
            found["converged"].append(float(np.all(converged)))
        return {name: np.array(values) for name, values in found.items()}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found = []
        for count in self.shards[1:]:
            own, whole = raw[str(count)], raw["1"]
            ratios = (
                (
                    Expected(
                        quantity=f"{count} shards: mean squared error of the reduction over the global estimate's",
                        value=1.0,
                        tolerance=0.5,
                        why="a ratio; at most 1.5",
                    ),
                    own["reduced"],
                    whole["reduced"],
                ),
                (
                    Expected(
                        quantity=f"{count} shards: mean squared error of the reduction over the unaligned average's",
                        value=0.0,
                        tolerance=0.999,
                        why="a ratio; below one",
                    ),
                    own["reduced"],
                    own["averaged"],
                ),
                (
                    Expected(
                        quantity=f"{count} shards: rows that EM visits on the slowest, times the number of shards, over the global fit's",
                        value=1.0,
                        tolerance=0.5,
                        why="a ratio; work falls as one over the number of shards",
                    ),
                    count * own["rows"],
                    whole["rows"],
                ),
            )
            for expected, above, below in ratios:
                good = (own["converged"] > 0) & (whole["converged"] > 0) & np.isfinite(above) & np.isfinite(below)
                failed = int(np.sum(~good))
                if np.sum(good) < 5:
                    found.append(untestable(expected, "fewer than 5 replicates converged", failed=failed))
                    continue
                measured, interval = _ratio(above[good], below[good])
                kept = (int(np.sum(good)),)
                found.append(
                    judged(expected, measured, interval, sizes=(self.num_examples,), replicates=kept, failed=failed)
                )
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """Errors over the number of shards."""
        x = np.array(self.shards, np.float64)
        curves = [
            Curve(label=name, x=x, y=np.array([np.nanmean(raw[str(count)][name]) for count in self.shards]))
            for name in ("reduced", "averaged")
        ]
        return Chart(curves=tuple(curves), x_label="shards", y_label="mean squared error")

    def _start(self, draw: np.random.Generator) -> SoftmaxExperts:
        """Near the truth, its experts in a random order."""
        mixed = permuted(truth(), draw.permutation(3))
        noise = self.start_noise * draw.standard_normal((2, *mixed.expert.shape))
        return SoftmaxExperts(mixed.gate + noise[0] * [1, 1, 0], mixed.expert + noise[1], np.full(3, 0.5))


def truth() -> SoftmaxExperts:
    """Three experts of four inputs that differ in every parameter."""
    return SoftmaxExperts(
        gate=np.array([[0.3, -0.2, 0.0], [1.0, -1.0, 0.0], [0.5, 1.0, 0.0], [-1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]),
        expert=np.array([[3.0, -3.0, 0.0], [1.0, -1.0, 2.0], [-1.0, 0.5, 1.0], [0.5, 2.0, -1.0], [1.5, -0.5, 0.0]]),
        variance=np.array([0.5, 0.3, 0.8]),
    )


def error(params: SoftmaxExperts) -> float:
    """Mean squared error of all parameters but the pinned gate, in the order of the experts that makes it least."""
    best = np.inf
    for order in itertools.permutations(range(3)):
        other, true = permuted(params, list(order)), truth()
        off = [(other.gate - true.gate)[:, :-1], other.expert - true.expert, other.variance - true.variance]
        best = min(best, float(np.mean(np.concatenate([np.ravel(part) for part in off]) ** 2)))
    return best


def _ratio(above: Float[np.ndarray, "_"], below: Float[np.ndarray, "_"]) -> tuple[float, tuple[float, float]]:
    """Of the means, with the 95 % interval of resampled replicates, which are paired."""
    index = np.random.default_rng(0).integers(len(above), size=(_RESAMPLES, len(above)))
    low, high = np.quantile(above[index].mean(axis=1) / below[index].mean(axis=1), [0.025, 0.975])
    return float(above.mean() / below.mean()), (float(low), float(high))


EXAMPLES = (Distributed(),)
