"""A mixture fitted on shards and reduced is nearly as good as one fitted on all data; one that is averaged is not.

Each shard numbers its experts in its own order. The reduction does not mind; an average over shards, expert by expert, does.
Source: Chamroukhi and Pham 2023 ("Distributed learning of mixtures of experts"), sections 3 to 5.
Deviations: the truth is ours, smaller than theirs, and local starts lie near it, in an order of each shard's own, where theirs are groups by
    k-means: another local maximum is no matter of the reduction. Work is counted in rows that EM visits too, which does not depend on the
    machine; seconds are those of the slowest shard alone and of the reduction, without moving data. The reduction takes 50 steps whether it needs
    them or not, and starts near the truth make the global fit short: at the size here they cost about the same, so that time is not saved.
"""

import dataclasses
import itertools
import time
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
    clusters,
    grouped,
    local_fits,
    permuted,
    predicted,
    reduced,
    sample,
)
from moejax.theory.findings import Chart, Curve, Expected, Finding, judged, untestable
from moejax.theory.rates import paired_ratio
from moejax.theory.studies.contract import Raw


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
        return (*(str(count) for count in self.shards), _TIME)

    def estimates(self, part: str) -> Raw:
        """Of the part 'time', what `_seconds` has. Of a number of shards, per replicate [R]: mean squared errors of the
        'reduced' and of the 'averaged' estimate; 'prediction', the relative squared error of the reduced one's mean on new data, with its
        'rand' and 'adjusted rand' indices against the experts that made them; 'rows', the most that EM visits on a shard; 'rise', the
        largest rise of the reduction's cost in a step; 'converged', whether EM was on all shards.
        """
        if part == _TIME:
            return self._seconds()
        count, rows = int(part), []
        for replicate in range(self.replicates):
            data = self._data(replicate, count)
            with jax.enable_x64(True):
                local, steps, converged = _fitted(data, self.max_steps, self.tolerance)
                one, costs = _reduced(local, data)
            one = one if count > 1 else jax.tree.map(lambda leaf: leaf[0], local)
            work = {"rows": float(steps.max() * data.inputs.shape[1]), "rise": float(np.diff(costs).max())}
            rows.append(
                work | {"reduced": error(one), "averaged": error(averaged(local)), "converged": float(np.all(converged))}
                | agreement(one, np.random.default_rng((self.seed, replicate, 1)))
            )  # fmt: skip
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found = []
        for place, count in enumerate(self.shards[1:], start=1):
            own, whole = raw[str(count)], raw["1"]
            wall, busy = raw[_TIME]["seconds"], raw[_TIME]["processor"]
            pairs = {
                "mean squared error of the reduction over the global estimate's": (own["reduced"], whole["reduced"]),
                "mean squared error of the reduction over the unaligned average's": (own["reduced"], own["averaged"]),
                "rows that EM visits on the slowest, times the number of shards, over the global fit's": (
                    count * own["rows"], whole["rows"],
                ),
                "relative prediction error over the global estimate's": (own["prediction"], whole["prediction"]),
                "Rand index over the global estimate's": (own["rand"], whole["rand"]),
                "adjusted Rand index over the global estimate's": (own["adjusted rand"], whole["adjusted rand"]),
                "seconds of the slowest and of the reduction over the global fit's": (wall[:, place], wall[:, 0]),
                "processor seconds of the slowest and of the reduction over the global fit's": (
                    busy[:, place], busy[:, 0],
                ),
            }  # fmt: skip
            ended = (own["converged"] > 0) & (whole["converged"] > 0)
            for expected in expectations(count):
                above, below = pairs[expected.quantity.partition(": ")[2]]
                good = ended[: len(above)] & np.isfinite(above) & np.isfinite(below)
                failed = int(np.sum(~good))
                if np.sum(good) < 5:
                    found.append(untestable(expected, "fewer than 5 replicates converged", failed=failed))
                    continue
                measured, interval = paired_ratio(above[good], below[good])
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

    def _data(self, replicate: int, count: int) -> "_Shards":
        """The same observations whatever the number of shards."""
        draw, rows = np.random.default_rng((self.seed, replicate)), self.num_examples // count
        inputs = affine(draw.standard_normal((self.num_examples, 4)))
        y = sample(truth(), inputs, draw)[0]
        support = inputs[draw.permutation(self.num_examples)[: max(rows // 4, 50)]]
        starts = jax.tree.map(lambda *leaves: np.stack(leaves), *(self._start(draw) for _ in range(count)))
        return _Shards(inputs.reshape(count, rows, -1), y.reshape(count, rows), starts, support, draw)

    def _seconds(self) -> dict[str, Float[np.ndarray, "_ _"]]:
        """Of what must be waited for, the fit of the slowest shard alone and then the reduction [rounds, shards]: 'seconds' of the clock and
        'processor' seconds. All numbers of shards take turns in every round; a round before the first compiles.
        """
        rounds = min(self.replicates, _ROUNDS) + 1
        found = np.zeros((rounds, len(self.shards), 2))
        for turn, place in itertools.product(range(rounds), range(len(self.shards))):
            data, fits, spent = self._data(turn, self.shards[place]), [], []
            with jax.enable_x64(True):
                for shard in range(self.shards[place]):
                    own, begin = data.only(shard), _clocks()
                    fits.append(_fitted(own, self.max_steps, self.tolerance)[0])
                    spent.append(_clocks() - begin)
                local = jax.tree.map(lambda *leaves: np.concatenate(leaves), *fits)
                begin = _clocks()
                if len(fits) > 1:
                    _reduced(local, data)
                found[turn, place] = np.max(spent, axis=0) + _clocks() - begin
        return {"seconds": found[1:, :, 0], "processor": found[1:, :, 1]}

    def _start(self, draw: np.random.Generator) -> SoftmaxExperts:
        """Near the truth, its experts in a random order."""
        mixed = permuted(truth(), draw.permutation(3))
        noise = self.start_noise * draw.standard_normal((2, *mixed.expert.shape))
        return SoftmaxExperts(mixed.gate + noise[0] * [1, 1, 0], mixed.expert + noise[1], np.full(3, 0.5))


_TIME, _ROUNDS = "time", 6


@dataclasses.dataclass(frozen=True)
class _Shards:
    """inputs [M S D+1], affine, y [M S], starts with M in front, support [S' D+1]; draw: what is left of the random numbers."""

    inputs: Any
    y: Any
    starts: SoftmaxExperts
    support: Any
    draw: np.random.Generator

    def only(self, shard: int) -> "_Shards":
        own = slice(shard, shard + 1)
        starts = jax.tree.map(lambda leaf: leaf[own], self.starts)
        return dataclasses.replace(self, inputs=self.inputs[own], y=self.y[own], starts=starts)


def _clocks() -> Float[np.ndarray, "2"]:
    """Seconds of the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def _fitted(data: _Shards, max_steps: int, tolerance: float) -> tuple[SoftmaxExperts, Any, Any]:
    """Local estimates, steps, and whether they converged, on the host."""
    arrays = jax.tree.map(jnp.asarray, (data.starts, data.inputs, data.y))
    return jax.tree.map(np.asarray, local_fits(*arrays, max_steps, tolerance))


def _reduced(local: SoftmaxExperts, data: _Shards) -> tuple[SoftmaxExperts, Any]:
    arrays = jax.tree.map(jnp.asarray, (local, grouped(local, data.draw), data.support))
    return jax.tree.map(np.asarray, reduced(*arrays))


def agreement(params: SoftmaxExperts, draw: np.random.Generator, num_test: int = 5000) -> dict[str, float]:
    """'prediction': the sum of squared errors of the mean over that of the responses, on new data; 'rand' and 'adjusted rand': of the
    likeliest experts with the true ones.
    """
    from sklearn.metrics import adjusted_rand_score, rand_score  # slow to import

    inputs = affine(draw.standard_normal((num_test, 4)))
    y, expert = sample(truth(), inputs, draw)
    found = clusters(params, inputs, y)
    return {
        "prediction": float(np.sum((y - predicted(params, inputs)) ** 2) / np.sum(y**2)),
        "rand": float(rand_score(expert, found)),
        "adjusted rand": float(adjusted_rand_score(expert, found)),
    }


def expectations(count: int) -> tuple[Expected, ...]:
    """Of so many shards, as ratios."""
    rows = (
        ("mean squared error of the reduction over the global estimate's", 1.0, 0.5, "a ratio; at most 1.5"),
        ("mean squared error of the reduction over the unaligned average's", 0.0, 0.999, "a ratio; below one"),
        (
            "rows that EM visits on the slowest, times the number of shards, over the global fit's", 1.0, 0.5,
            "a ratio; work falls as one over the number of shards",
        ),
        ("relative prediction error over the global estimate's", 1.0, 0.05, "a ratio, on new data; as accurate"),
        ("Rand index over the global estimate's", 1.0, 0.05, "a ratio, on new data; as accurate"),
        ("adjusted Rand index over the global estimate's", 1.0, 0.05, "a ratio, on new data; as accurate"),
        (
            "seconds of the slowest and of the reduction over the global fit's", 1 / count, 1 / count,
            "a ratio, measured by turns; at most twice one over the number of shards",
        ),
        (
            "processor seconds of the slowest and of the reduction over the global fit's", 1 / count, 1 / count,
            "a ratio, measured by turns; does not count what other programs took of the processor",
        ),
    )  # fmt: skip
    return tuple(
        Expected(quantity=f"{count} shards: {name}", value=value, tolerance=tolerance, why=why)
        for name, value, tolerance, why in rows
    )


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


EXAMPLES = (Distributed(),)
