"""The l1-penalised mixture of two linear experts in more dimensions than examples, against the order of its oracle inequality.

Source: Nguyen et al. 2020 ("An l1-oracle inequality for the Lasso in mixture-of-experts regression models"), theorem 3.1, for the
    bound and the order of the penalty; Chamroukhi and Huynh 2019, section 4, for the truth and its correlated inputs.
Deviations: the paper has no experiment; all of this is ours. The theorem is about the global minimum, which no algorithm promises in
    this problem: fits start at the truth moved by noise in every coordinate.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.theory.findings import Chart, Curve, Expected, Finding, judged, untestable
from moejax.theory.over_seeds import mean_finding, share_finding
from moejax.theory.proximal_em import ProximalEM, divergence
from moejax.theory.rates import check_protocol
from moejax.theory.studies.contract import Raw

_KERNELS = {0: (0, 0, 1.5, 0, 0, 0, 1), 1: (0, 1, -1.5, 0, 0, 2, 0)}
_GATE = (1, 2, 0, 0, -1, 0, 0)
_CORRELATION = 0.5
_CONVERGED = 2e-2  # the last step of any kernel, as a share of the penalty, above which a fit has failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lasso:
    """sizes: of samples, in `dim` dimensions; dims: with `size` examples. penalties: the grid of lambda, in units of the order of the bound,
    log(n) sqrt(log(2 p + 1) / n). num_test: inputs that the divergence is a mean over.

    Raises SpecError for a grid of fewer than 3 penalties or one that does not ascend, and for fewer than 2 dimensions.
    """

    sizes: tuple[int, ...] = (200, 400, 800, 1600, 3200)
    dim: int = 200
    dims: tuple[int, ...] = (50, 200, 800)
    size: int = 800
    penalties: tuple[float, ...] = tuple(float(c) for c in 0.01 * 2.0 ** (0.75 * np.arange(8)))
    replicates: int = 6
    num_test: int = 400
    iterations: int = 200
    start_noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 20)
        if len(self.penalties) < 3 or sorted(set(self.penalties)) != list(self.penalties) or self.penalties[0] <= 0:
            raise SpecError(f"penalties={self.penalties} must be at least 3 positive numbers that ascend.")
        if len(set(self.dims)) < 2:
            raise SpecError(f"dims={self.dims} must be at least two, for a growth with p.")
        if min(*self.dims, self.dim) < len(_GATE):
            raise SpecError(
                f"dims={self.dims}, dim={self.dim} must be at least {len(_GATE)}, where the truth is not zero."
            )

    @property
    def claim(self) -> str:
        return (
            "With lambda of the order log(n) sqrt(log(2 p + 1) / n) the penalised mixture's divergence from the truth is bounded by that "
            "order, so that it falls as n^(-1/2) or faster and grows as sqrt(log p) or slower."
        )

    @property
    def protocol(self) -> str:
        return (
            f"Two experts with 8 non-zero numbers, inputs of correlation 0.5^|i-j|; {len(self.penalties)} penalties at every n and p, "
            f"{self.replicates} replicates, held-out divergence by quadrature at {self.num_test} new inputs."
        )

    @property
    def parts(self) -> tuple[str, ...]:
        shapes = [(n, self.dim) for n in self.sizes] + [(self.size, p) for p in self.dims]
        return tuple(dict.fromkeys(f"n={n}-p={p}" for n, p in shapes))

    def estimates(self, part: str) -> Raw:
        """By penalty [R penalties]: 'divergence' from the truth, 'found' of the 8 numbers that are not zero, 'false' ones, and 'step', the
        last step of any kernel over the penalty.
        """
        num_examples, dim = (int(word.partition("=")[2]) for word in part.split("-"))
        draw = np.random.default_rng((self.seed, num_examples, dim))
        penalties = jnp.asarray(np.array(self.penalties) * bound(num_examples, dim), jnp.float32)
        rows = []
        for _ in range(self.replicates):
            data = [jnp.asarray(array, jnp.float32) for array in self._data(draw, num_examples, dim)]
            start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), self._start(draw, dim))
            rows.append(_path(ProximalEM(iterations=self.iterations), start, *data, penalties))
        return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}

    def divergences(self, raw: Raw) -> Float[np.ndarray, "_ _"]:
        """[R penalties], NaN where the fit failed."""
        return np.where(raw["step"] < _CONVERGED, raw["divergence"], np.nan)

    def table(self, raw: Mapping[str, Raw]) -> dict[str, dict[str, float]]:
        """Support recovery by part at the penalty of least mean divergence: 'penalty' in units of the bound, means 'found' (of 8), 'false'."""
        found = {}
        for part in self.parts:
            best = self._best(raw[part])
            found[part] = {
                "penalty": self.penalties[best],
                "found": float(raw[part]["found"][:, best].mean()),
                "false": float(raw[part]["false"][:, best].mean()),
            }
        return found

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        shapes = {part: tuple(int(word.partition("=")[2]) for word in part.split("-")) for part in self.parts}
        orders = {part: math.log(bound(*shape)) for part, shape in shapes.items()}
        by_n = {part: math.log(n) for part, (n, p) in shapes.items() if p == self.dim}
        by_p = {part: math.log(math.log(2 * p + 1)) for part, (n, p) in shapes.items() if n == self.size}
        failed = sum(int(np.sum(~np.isfinite(self.divergences(raw[part])))) for part in self.parts)
        best = {part: np.log(self._best_by_replicate(raw[part]) * bound(*shapes[part])) for part in self.parts}
        least = {part: self.divergences(raw[part])[:, self._best(raw[part])] for part in self.parts}
        order = Expected(
            quantity="best lambda",
            value=1.0,
            tolerance=0.3,
            why="slope of the logarithm of the best lambda over that of the bound's order",
        )
        near = Expected(
            quantity="best lambda over the order",
            value=0.0,
            tolerance=1.0,
            why="mean logarithm to base ten, over all n and p, of the best lambda in units of the bound's order: within a power of ten",
        )
        below = Expected(
            quantity="divergence within the bound",
            value=1.0,
            tolerance=0.0,
            why="share of fits at the best lambda whose divergence is below the order times the sum of the truth's absolute numbers",
        )
        falls = Expected(
            quantity="fall with n short of 1/2",
            value=0.0,
            tolerance=0.05,
            why="what the slope of log divergence over log n at the best lambda lacks of -1/2, 0 where it is steeper",
        )
        grows = Expected(
            quantity="growth with p beyond 1/2",
            value=0.0,
            tolerance=0.1,
            why="what the slope of log divergence over log log(2 p + 1) at the best lambda exceeds 1/2 by, 0 where it does not; what lies "
            "far below an upper bound may grow faster than it",
        )
        support = Expected(
            quantity=f"support found, n={max(self.sizes)}",
            value=1.0,
            tolerance=0.1,
            why="share of the numbers that are not zero in the truth and in the fit, at the best lambda",
        )
        largest = raw[f"n={max(self.sizes)}-p={self.dim}"]
        found = largest["found"][:, self._best(largest)].astype(np.float64) / 8
        place = np.concatenate([self._best_by_replicate(raw[part]) for part in self.parts])
        logs = {part: np.log(values) for part, values in least.items()}
        ends = {part: values[np.isfinite(values)] for part, values in least.items()}
        within = np.concatenate([ends[part] <= bound(*shapes[part]) * _true_size() for part in self.parts])
        lost = sum(len(values) - len(ends[part]) for part, values in least.items())
        return (
            mean_finding(near, np.log10(place)),
            _slope_finding(order, orders, best, failed=failed),
            share_finding(below, within, failed=lost),
            _slope_finding(falls, by_n, logs, above=-0.5),
            _slope_finding(grows, by_p, logs, above=0.5),
            mean_finding(support, found),
        )

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """Mean divergence over lambda in units of the order of the bound, of every n and p."""
        curves = []
        for part in self.parts:
            values = self.divergences(raw[part])
            kept = np.isfinite(values).any(axis=0)
            x, y = np.array(self.penalties)[kept], np.nanmean(values[:, kept], axis=0)
            curves.append(Curve(label=part.replace("-", ", "), x=x, y=y))
        return Chart(curves=tuple(curves), x_label="lambda / order of the bound", y_label="held-out divergence")

    def _best(self, raw: Raw) -> int:
        """Of the least mean divergence among penalties at which most fits converged."""
        values = self.divergences(raw)
        kept = np.isfinite(values)
        mean = np.sum(np.where(kept, values, 0.0), axis=0) / np.maximum(kept.sum(axis=0), 1)
        return int(np.argmin(np.where(kept.mean(axis=0) > 0.5, mean, np.inf)))

    def _best_by_replicate(self, raw: Raw) -> Float[np.ndarray, "_"]:
        """In units of the bound: the lowest point of a parabola through the least divergence and its neighbours, in logarithms."""
        values, grid = self.divergences(raw), np.log(self.penalties)
        values = np.where(np.isfinite(values), values, np.inf)
        found = []
        for row in values:
            at = int(np.argmin(row))
            if 0 < at < len(grid) - 1 and np.all(np.isfinite(row[at - 1 : at + 2])):
                square, line, _ = np.polyfit(grid[at - 1 : at + 2] - grid[at], np.log(row[at - 1 : at + 2]), 2)
                found.append(grid[at] - line / (2 * square))
            else:
                found.append(grid[at] if np.isfinite(row[at]) else np.nan)
        return np.exp(np.array(found))

    def _data(self, draw: np.random.Generator, num_examples: int, dim: int) -> tuple[np.ndarray, ...]:
        x = correlated(draw, num_examples + self.num_test, dim)
        train, test = x[:num_examples], x[num_examples:]
        true = truth(dim)
        scores = train @ true["gate"]["kernel"]
        expert = (draw.random(num_examples) > 1 / (1 + np.exp(scores[:, 1] - scores[:, 0]))).astype(int)
        mean = (train @ true["kernel"])[np.arange(num_examples), expert]
        return train, mean + draw.standard_normal(num_examples), test

    def _start(self, draw: np.random.Generator, dim: int) -> Any:
        moved = jax.tree.map(
            lambda leaf: leaf + self.start_noise * draw.standard_normal(leaf.shape) / np.sqrt(dim), truth(dim)
        )
        moved["gate"]["kernel"][:, -1], moved["gate"]["bias"][-1] = 0.0, 0.0
        return moved


def bound(num_examples: int, dim: int) -> float:
    """The order of the penalty in the oracle inequality, up to its constant: log(n) sqrt(log(2 p + 1) / n)."""
    return math.log(num_examples) * math.sqrt(math.log(2 * dim + 1) / num_examples)


def truth(dim: int) -> Any:
    """Parameters as of `ProximalEM`, unit variances and no biases."""
    kernel, gate = np.zeros((dim, 2)), np.zeros((dim, 2))
    for expert, values in _KERNELS.items():
        kernel[: len(values), expert] = values
    gate[: len(_GATE), 0] = _GATE
    zeros = np.zeros(2)
    return {
        "gate": {"kernel": gate, "bias": zeros.copy()},
        "kernel": kernel,
        "bias": zeros.copy(),
        "log_variance": zeros.copy(),
    }


def _true_size() -> float:
    """Sum of the absolute numbers of the truth that are penalised."""
    return float(np.sum(np.abs([*_KERNELS.values(), _GATE])))


def correlated(draw: np.random.Generator, num_examples: int, dim: int) -> Float[np.ndarray, "_ _"]:
    """Normal inputs [examples, dim] of unit variance and correlation 0.5^|i - j|."""
    x = draw.standard_normal((num_examples, dim))
    for column in range(1, dim):
        x[:, column] = _CORRELATION * x[:, column - 1] + math.sqrt(1 - _CORRELATION**2) * x[:, column]
    return x


@functools.partial(jax.jit, static_argnums=0)
def _path(method: ProximalEM, start: Any, x: Array, y: Array, test: Array, penalties: Array) -> dict[str, Array]:
    """All penalties from the same start, one after the other."""
    true = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), truth(x.shape[1]))

    def one(penalty: Array) -> dict[str, Array]:
        params, far = method.fit(start, x, y, penalty)
        fitted = jnp.stack([params["kernel"][:, 0], params["kernel"][:, 1], params["gate"]["kernel"][:, 0]])
        wanted = jnp.stack([true["kernel"][:, 0], true["kernel"][:, 1], true["gate"]["kernel"][:, 0]])
        return {
            "divergence": divergence(true, params, test),
            "found": jnp.sum((fitted != 0) & (wanted != 0)),
            "false": jnp.sum((fitted != 0) & (wanted == 0)),
            "step": far / penalty,
        }

    return jax.lax.map(one, penalties)


def _slope_finding(
    expected: Expected,
    at: Mapping[str, float],
    values: Mapping[str, np.ndarray],
    *,
    above: float | None = None,
    failed: int = 0,
) -> Finding:
    """The slope of the means of values over `at`, with the interval of resampled replicates; above: by how much it exceeds that, at least 0.
    'not testable' where a part has fewer than two finite values.
    """
    draw, x = np.random.default_rng(0), np.array(list(at.values()))
    kept = [values[part][np.isfinite(values[part])].astype(np.float64) for part in at]
    if min(len(one) for one in kept) < 2:
        return untestable(expected, "at some n and p fewer than two fits converged at the best lambda.", failed=failed)
    rows = [np.array([one.mean() for one in kept])]
    rows += [np.array([draw.choice(one, len(one)).mean() for one in kept]) for _ in range(500)]
    slopes = np.polyfit(x, np.stack(rows, axis=1), 1)[0]
    slopes = slopes if above is None else np.maximum(slopes - above, 0.0)
    low, high = np.quantile(slopes[1:], [0.025, 0.975])
    counts = tuple(len(one) for one in kept)
    return judged(expected, float(slopes[0]), (float(low), float(high)), replicates=counts, failed=failed)


EXAMPLES = (Lasso(),)
