"""How many Gaussian-gated experts: penalties by the slope heuristic, and how fast the selected model nears the truth.

Well specified, two linear experts are the truth, and two should be selected; misspecified, the experts' means are parabolas, and every
added expert lowers the error.
Source: Nguyen et al. 2022 ("A non-asymptotic approach for model selection via penalization in high-dimensional mixture of experts
    models"), section 3.
Deviations: eleven numbers of experts from 1 to 20 in place of all, five sizes in place of eleven, EM from distant observations; divergences
    are sums over a grid of inputs and responses in place of 30 responses drawn at every input. The dimension of one expert is 5, as 6 E - 1 has it,
    where the authors' regression counts 3.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp
from scipy.stats import norm

from moejax.core.errors import SpecError
from moejax.theory.findings import Chart, Expected, Finding, judged
from moejax.theory.gaussian_gated_moe import GaussianGated, features, log_density, num_parameters
from moejax.theory.joint_em import blocked, fit, maximised
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.slope_heuristics import RULES
from moejax.theory.studies.contract import Raw

_CENTRES, _COVARIANCES, _DEVIATION = np.array([0.2, 0.8]), np.array([0.1, 0.15]), 0.3
_MEANS = {  # coefficients of 1, x, x^2 of both experts
    "linear": np.array([[2.0, -5.0, 0.0], [0.0, 0.1, 0.0]]),
    "parabolic": np.array([[1.0, -6.0, 1.0], [0.0, 0.0, -0.4]]),
}
_FLOOR = 1e-6  # least variance of inputs and responses of an expert, whose truth has 0.09 and more


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSelection:
    """num_experts: of the models, ascending; the largest must be far above what is needed, or nothing jumps where it should. max_steps and
    tolerance: of EM, from `starts` starts of which the best likelihood is kept. Raises SpecError for fewer than 3 models.
    """

    sizes: tuple[int, ...] = tuple(int(round(1000 * 2**j)) for j in (0, 5 / 6, 10 / 6, 15 / 6, 20 / 6))
    replicates: int = 16
    num_experts: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
    seed: int = 0
    starts: int = 1
    max_steps: int = 100
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 100)
        ascending = sorted(set(self.num_experts)) == list(self.num_experts)
        if len(self.num_experts) < 3 or not ascending or 2 not in self.num_experts:
            raise SpecError(
                f"num_experts={self.num_experts} must be at least 3 numbers that ascend, with 2, the truth's: a slope needs three models."
            )

    @property
    def claim(self) -> str:
        return (
            "Penalties of twice the minimal one select two experts where two are true; the divergence of the selected model falls as "
            "1 / n there, and more slowly under misspecification."
        )

    @property
    def protocol(self) -> str:
        return (
            f"The published truths, {min(self.num_experts)} to {max(self.num_experts)} experts by EM, n = {min(self.sizes):,} to {max(self.sizes):,}, "
            f"{self.replicates} trials; both rules of the slope heuristic."
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"{case}-{n}" for case in _MEANS for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'contrast', minus the log-likelihood of responses given inputs, and 'divergence', Kullback-Leibler from the truth, each
        [R models].
        """
        case, size = part.split("-")
        draw = np.random.default_rng((self.seed, list(_MEANS).index(case), int(size)))
        grid_x, grid_y = _grid()
        true = true_log_density(case, grid_x, grid_y)
        found: dict[str, list[Any]] = {"contrast": [], "divergence": []}
        with jax.enable_x64(True):
            grid = (jnp.asarray(grid_x), jnp.asarray(grid_y), jnp.asarray(true))
            for _ in range(self.replicates):
                x, y = sample(case, int(size), draw)
                data = jax.tree.map(jnp.asarray, blocked(x[:, None], y, max(self.sizes)))
                fitted = [self._best(x, y, data, k, draw) for k in self.num_experts]
                models = jax.tree.map(
                    lambda *leaves: jnp.asarray(np.stack(leaves)),
                    *(_padded(one, max(self.num_experts)) for one in fitted),
                )
                room = max(self.sizes) - len(x)
                own = (
                    jnp.asarray(np.pad(x, (0, room))),
                    jnp.asarray(np.pad(y, (0, room))),
                    jnp.arange(len(x) + room) < len(x),
                )
                contrast, divergence = _scored(models, own, grid)
                found["contrast"].append(np.asarray(contrast))
                found["divergence"].append(np.asarray(divergence))
        return {name: np.stack(values) for name, values in found.items()}

    def selected(self, raw: Raw, rule: str) -> tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"]]:
        """Of every trial, the number of experts and the divergence of the selected model; NaN where a fit is not finite."""
        dimension = np.array([num_parameters(k, 1) for k in self.num_experts], np.float64)
        experts, divergence = np.full(len(raw["contrast"]), np.nan), np.full(len(raw["contrast"]), np.nan)
        for trial, contrast in enumerate(raw["contrast"]):
            if np.all(np.isfinite(contrast)):
                model = RULES[rule](dimension, contrast).model
                experts[trial], divergence[trial] = self.num_experts[model], raw["divergence"][trial, model]
        return experts, divergence

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for case in _MEANS:
            found += rate_findings(_EXPECTED[case], self._errors(raw, case))
        for rule in RULES:
            chosen = {n: self.selected(raw[f"linear-{n}"], rule)[0] for n in self.sizes}
            kept = np.concatenate([experts[np.isfinite(experts)] for experts in chosen.values()])
            share = Expected(
                quantity=f"linear: share of trials in which the {rule} selects two experts",
                value=1.0,
                tolerance=0.25,
                why="the large majority, over all sizes",
            )
            finding = judged(
                share,
                float(np.mean(kept == 2)),
                _share_interval(kept == 2),
                sizes=self.sizes,
                replicates=tuple(len(values) for values in chosen.values()),
                failed=self.replicates * len(self.sizes) - len(kept),
            )
            found.append(finding)
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """The divergence of the model that the dimension jump selects."""
        curves = [
            curve
            for case in _MEANS
            for curve in error_curves(self._errors(raw, case), [f"{case}: divergence by dimension jump"])
        ]
        return Chart(curves=tuple(curves), y_label="Kullback-Leibler divergence")

    def _errors(self, raw: Mapping[str, Raw], case: str) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        return {n: self._divergences(raw[f"{case}-{n}"], case) for n in self.sizes}

    def _divergences(self, raw: Raw, case: str) -> dict[str, Float[np.ndarray, "_"]]:
        found = {f"{case}: divergence by {rule}": self.selected(raw, rule)[1] for rule in RULES}
        return found | {f"{case}: divergence by knowing the truth": raw["divergence"][:, self.num_experts.index(2)]}

    def _best(self, x: Any, y: Any, data: Any, num_experts: int, draw: np.random.Generator) -> GaussianGated:
        """The fit of the best joint likelihood."""
        runs = []
        for _ in range(self.starts if num_experts > 1 else 1):
            start = maximised(jnp.asarray(_owned(x, y, num_experts, draw)), _FLOOR)
            runs.append(fit(start, data, self.max_steps, self.tolerance, _FLOOR))
        return max(runs, key=lambda run: float(np.nan_to_num(run.value, nan=-np.inf))).params


def _rate(case: str, rule: str, value: float, tolerance: float, published: float | None, why: str) -> Expected:
    quantity = f"{case}: divergence by {rule}"
    return Expected(quantity=quantity, value=value, tolerance=tolerance, published=published, why=why)


_EXPECTED = {
    "linear": (
        _rate("linear", "dimension jump", -1.287, 0.2, -1.287, "the published free fit"),
        _rate("linear", "dimension jump", -1.0, 0.15, None, "dimension / (2 n) for a model that holds the truth"),
        _rate("linear", "data-driven slope", -1.0, 0.15, None, "dimension / (2 n) for a model that holds the truth"),
        _rate(
            "linear",
            "knowing the truth",
            -1.0,
            0.15,
            None,
            "two experts, whatever is selected: what a selection can reach",
        ),
    ),
    "parabolic": (
        _rate("parabolic", "dimension jump", -0.612, 0.15, -0.612, "the published free fit"),
        _rate("parabolic", "data-driven slope", -0.612, 0.15, None, "as by the other rule"),
    ),
}


def sample(
    case: str, num_examples: int, draw: np.random.Generator
) -> tuple[Float[np.ndarray, "S"], Float[np.ndarray, "S"]]:
    """Inputs and responses of a truth: 'linear' or 'parabolic'."""
    expert = draw.integers(2, size=num_examples)
    x = _CENTRES[expert] + np.sqrt(_COVARIANCES[expert]) * draw.standard_normal(num_examples)
    mean = np.sum(_MEANS[case][expert] * np.stack([np.ones_like(x), x, x * x], axis=1), axis=1)
    return x, mean + _DEVIATION * draw.standard_normal(num_examples)


def true_log_density(case: str, x: Float[np.ndarray, "_"], y: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, "_ _"]:
    """Of responses y, a row for every input, under a truth."""
    gates = norm.logpdf(x[:, None], _CENTRES, np.sqrt(_COVARIANCES))
    gates = gates - logsumexp(gates, axis=1, keepdims=True)
    mean = np.stack([np.ones_like(x), x, x * x], axis=1) @ _MEANS[case].T
    return logsumexp(gates[:, None] + norm.logpdf(y[:, :, None], mean[:, None], _DEVIATION), axis=2)


def _share_interval(chosen: Any) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    count, share, z = len(chosen), float(np.mean(chosen)), 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return float(centre - half), float(centre + half)


@functools.cache
def _grid() -> tuple[Any, Any]:
    """Inputs [100], equally likely under the truth's law, and responses [100 251] at which densities are summed, 0.08 apart."""
    fine = np.linspace(-2.0, 3.5, 20_001)
    law = norm.cdf(fine[:, None], _CENTRES, np.sqrt(_COVARIANCES)).mean(axis=1)
    x = np.interp((np.arange(100) + 0.5) / 100, law, fine)
    return x, np.tile(np.linspace(-12.0, 8.0, 251), (100, 1))


def _owned(x: Any, y: Any, num_experts: int, draw: np.random.Generator) -> Float[np.ndarray, "E _"]:
    """Sums of `features` of observations owned by the nearest of `num_experts` that are drawn far from each other (k-means++)."""
    points = np.stack([x / x.std(), y / y.std()], axis=1)
    nearest = np.full(len(x), np.inf)
    owner = np.zeros(len(x), int)
    for expert in range(num_experts):
        chance = nearest / nearest.sum() if expert else None
        off = np.sum((points - points[draw.choice(len(x), p=chance)]) ** 2, axis=1)
        owner, nearest = np.where(off < nearest, expert, owner), np.minimum(off, nearest)
    return np.eye(num_experts)[owner].T @ features(x[:, None], y)


def _padded(params: GaussianGated, num_experts: int) -> GaussianGated:
    """With experts of no mass up to `num_experts`, so that models of all sizes share one compiled program."""
    more = num_experts - len(params.bias)

    def grown(leaf: Any, value: float) -> Any:
        return np.concatenate([np.asarray(leaf), np.full((more, *leaf.shape[1:]), value)])

    zeros = jax.tree.map(lambda leaf: grown(leaf, 0.0), params)
    return zeros.replace(
        log_mass=grown(params.log_mass, -np.inf),
        covariance=grown(params.covariance, 1.0),
        variance=grown(params.variance, 1.0),
    )


@jax.jit
def _scored(
    models: GaussianGated, own: tuple[Array, Array, Array], grid: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """Contrast and divergence of every model."""
    x, y, present = own
    grid_x, grid_y, true = grid
    step = grid_y[0, 1] - grid_y[0, 0]

    def one(params: GaussianGated) -> tuple[Array, Array]:
        contrast = -jnp.sum(jnp.where(present, log_density(params, x[:, None], y), 0.0))
        inputs = jnp.repeat(grid_x, grid_y.shape[1])[:, None]
        fitted = log_density(params, inputs, grid_y.reshape(-1)).reshape(grid_y.shape)
        return contrast, jnp.sum(jnp.exp(true) * (true - fitted)) * step / len(grid_x)

    return jax.lax.map(one, models)


EXAMPLES = (ModelSelection(),)
