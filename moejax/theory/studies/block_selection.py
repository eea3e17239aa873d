"""How many experts, of which degree, with which blocks of covariances: one penalty on the number of parameters chooses all three.

A full covariance pays for what is not there, a diagonal one misses what is; the blocks that thresholds on correlations suggest are a
random collection of models between them, in which the slope heuristic calibrates the penalty.
Source: Nguyen et al. 2022 ("A non-asymptotic approach for model selection via penalization in high-dimensional mixture of experts
    models"), BLoME, and Nguyen et al. 2021 ("A non-asymptotic model selection in block-diagonal mixture of polynomial experts models"),
    theorem 3.2: the risk of the selected model is that of the best one, up to constants and to what the penalty adds.
Deviations: the papers simulate no block structures: truth, sizes and the collection are ours, in few dimensions; inputs are those of their
    simulation of localised experts. Risks are Kullback-Leibler divergences, above the Jensen-Kullback-Leibler ones of the theorem, and their
    ratio to the oracle's stands for the inequality, whose constants have no values. Of models with as many parameters the best is taken.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.theory.block_gaussian_moe import (
    BlockGaussian,
    fits,
    log_density,
    maximised,
    num_parameters,
    products,
    sample,
)
from moejax.theory.covariance_blocks import numbered, partitions, together
from moejax.theory.findings import Chart, Expected, Finding, judged
from moejax.theory.joint_em import Blocks
from moejax.theory.over_seeds import share_finding
from moejax.theory.rates import check_protocol, error_curves, paired_ratio, rate_findings
from moejax.theory.slope_heuristics import RULES, best_of_each
from moejax.theory.studies.contract import Raw

TRUE_BLOCKS = np.array([[0, 0, 0, 1, 1, 2], [0, 1, 1, 2, 2, 2]])
_CORRELATION, _VARIANCE, _FLOOR = 0.6, 0.09, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSelection:
    """num_experts, degrees: of the models, ascending. num_test: draws from the truth for the divergences of one trial. max_steps and
    tolerance: of EM, from the best of `starts` starts. Raises SpecError where the truth, two experts of degree 1, is not among the models.
    """

    sizes: tuple[int, ...] = (500, 1000, 2000, 4000)
    replicates: int = 20
    num_experts: tuple[int, ...] = (1, 2, 3, 4)
    degrees: tuple[int, ...] = (1, 2)
    seed: int = 0
    num_test: int = 2000
    starts: int = 3
    max_steps: int = 100
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 100)
        ascending = all(sorted(set(values)) == list(values) for values in (self.num_experts, self.degrees))
        if not ascending or 2 not in self.num_experts or 1 not in self.degrees or self.num_experts[-1] < 3:
            raise SpecError(
                f"num_experts={self.num_experts} and degrees={self.degrees} must ascend and hold the truth's, 2 and 1, and larger models "
                "than it: num_experts up to 3 or more."
            )

    @property
    def claim(self) -> str:
        return (
            "A penalty proportional to the number of parameters, calibrated by the slope heuristic, selects experts, degree and blocks of "
            "covariances together, at the risk of the best model of the collection up to a constant."
        )

    @property
    def protocol(self) -> str:
        return (
            f"Six responses in blocks of 1 to 3, two experts; models of {self.num_experts} experts, degrees {self.degrees} and all partitions "
            f"that thresholds on the fitted correlations give, by EM, n = {min(self.sizes):,} to {max(self.sizes):,}, {self.replicates} trials."
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(str(n) for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """Of every model of every trial [R models], NaN where there are fewer: 'contrast', minus the log-likelihood of responses given inputs,
        'divergence', 'dimension', 'experts', 'degree', 'full' (1: covariances have one block) and 'right' (1: the truth's own blocks).
        """
        draw = np.random.default_rng((self.seed, int(part)))
        trials = []
        with jax.enable_x64(True):
            for _ in range(self.replicates):
                data, test = sample(truth(), int(part), draw), sample(truth(), self.num_test, draw)
                trials.append(np.concatenate([
                    self._models(data, test, experts, degree, draw)
                    for degree in self.degrees for experts in self.num_experts
                ], axis=1))  # fmt: skip
        room = max(trial.shape[1] for trial in trials)
        padded = [np.pad(trial, ((0, 0), (0, room - trial.shape[1])), constant_values=np.nan) for trial in trials]
        return dict(zip(_COLUMNS, np.moveaxis(np.stack(padded), 1, 0), strict=True))

    def selected(self, raw: Raw, rule: str) -> dict[str, Float[np.ndarray, "R"]]:
        """Every column of the selected model, NaN where a fit is not finite."""
        found = {name: np.full(len(raw["contrast"]), np.nan) for name in raw}
        for trial in range(len(raw["contrast"])):
            own = {name: values[trial] for name, values in raw.items()}
            kept = np.flatnonzero(np.isfinite(own["dimension"]))
            if not np.all(np.isfinite(own["contrast"][kept])):
                continue
            best = kept[best_of_each(own["dimension"][kept], own["contrast"][kept])]
            model = best[RULES[rule](own["dimension"][best], own["contrast"][best]).model]
            for name in raw:
                found[name][trial] = own[name][model]
        return found

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        rates = (_expected(rule, "divergence", -1.0, 0.15, "dimension / (2 n)") for rule in RULES)
        found = list(rate_findings(tuple(rates), self._errors(raw)))
        weight = np.repeat(np.array(self.sizes, np.float64), self.replicates)
        best = np.concatenate([np.nanmin(raw[part]["divergence"], axis=1) for part in self.parts])
        wide = np.concatenate([full_covariances(raw[part]) for part in self.parts])
        for rule in RULES:
            trials = [self.selected(raw[part], rule) for part in self.parts]
            chosen = {name: np.concatenate([one[name] for one in trials]) for name in trials[0]}
            good = np.isfinite(chosen["divergence"])
            for name, value, what in _TRUTHS:
                share = _expected(rule, f"share of trials with {what}", 1.0, 0.25, "a share, over all sizes")
                found.append(share_finding(share, chosen[name][good] == value, failed=int(np.sum(~good))))
            risk = weight * chosen["divergence"]
            found.append(self._ratio(_expected(rule, *_ORACLE), risk, weight * best))
            found.append(self._ratio(_expected(rule, *_GAIN), risk, weight * wide))
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        errors = self._errors(raw)
        return Chart(curves=error_curves(errors, list(errors[self.sizes[0]])), y_label="Kullback-Leibler divergence")

    def _errors(self, raw: Mapping[str, Raw]) -> dict[int, dict[str, Float[np.ndarray, "R"]]]:
        found: dict[int, dict[str, Any]] = {}
        for n in self.sizes:
            own = raw[str(n)]
            found[n] = {f"{rule}: divergence": self.selected(own, rule)["divergence"] for rule in RULES}
            found[n]["full covariances: divergence"] = full_covariances(own)
            found[n]["best model: divergence"] = np.nanmin(own["divergence"], axis=1)
        return found

    def _ratio(self, expected: Expected, above: Any, below: Any) -> Finding:
        good = np.isfinite(above) & np.isfinite(below)
        measured, interval = paired_ratio(above[good], below[good])
        kept = (int(good.sum()),)
        return judged(expected, measured, interval, sizes=self.sizes, replicates=kept, failed=int(np.sum(~good)))

    def _models(self, data: Any, test: Any, experts: int, degree: int, draw: np.random.Generator) -> np.ndarray:
        """The models of one number of experts and degree: `_COLUMNS` by models."""
        x, y = data
        capacity, responses = max(self.sizes), y.shape[1]
        arrays = jax.tree.map(jnp.asarray, products(x, y, degree, capacity))
        rules = (self.max_steps, self.tolerance, _FLOOR)
        one = np.ones((self.starts, experts, responses, responses))
        starts = [started(x, y, experts, degree, draw) for _ in range(self.starts)]
        full = fits(_stacked(starts), jnp.asarray(one), arrays, *rules)
        whole = jax.tree.map(lambda leaf: leaf[int(np.argmax(np.nan_to_num(full.value, nan=-np.inf)))], full.params)
        blocks = np.zeros((1, experts, responses), int)
        if np.all(np.isfinite(whole.covariance)):
            blocks = partitions(np.asarray(whole.covariance))
        # As many as there can be, so that one compiled program does: the last one again.
        most = experts * (responses - 1) + 1
        room = np.concatenate([blocks, np.repeat(blocks[-1:], most - len(blocks), axis=0)])
        within = jnp.asarray(together(room))
        begun = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], most, axis=0), whole)
        models = fits(begun.replace(covariance=begun.covariance * within), within, arrays, *rules).params
        held = jax.tree.map(jnp.asarray, products(test[0], test[1], degree))
        true = jnp.asarray(true_log_density(*test))
        contrast, divergence = _scored(models, arrays, held, true)
        right = [experts == 2 and degree == 1 and same_blocks(one) for one in blocks]
        columns = [
            np.asarray(contrast), np.asarray(divergence), [num_parameters(one, degree) for one in room], np.full(most, experts),
            np.full(most, degree), [not one.any() for one in room], right + [False] * (most - len(blocks)),
        ]  # fmt: skip
        return np.stack([np.asarray(column, np.float64) for column in columns])[:, : len(blocks)]


_COLUMNS = ("contrast", "divergence", "dimension", "experts", "degree", "full", "right")


_TRUTHS = (
    ("experts", 2, "two experts"),
    ("degree", 1, "linear experts"),
    ("right", 1, "the true number, degree and blocks"),
)
_ORACLE = ("risk over that of the best model", 1.0, 0.5, "a ratio, at most 1.5; risks times n, all sizes")
_GAIN = (
    "risk over that of two linear experts with full covariances",
    num_parameters(TRUE_BLOCKS, 1) / num_parameters(np.zeros_like(TRUE_BLOCKS), 1),
    0.15,
    "a ratio: that of the numbers of parameters of the truth with its blocks and without",
)


def full_covariances(raw: Raw) -> Float[np.ndarray, "R"]:
    """The divergence of two linear experts whose covariances have one block, by trial."""
    wide = (raw["experts"] == 2) & (raw["degree"] == 1) & (raw["full"] == 1)
    return raw["divergence"][wide]


def truth() -> BlockGaussian:
    """Two experts whose inputs are those of the papers' simulation, six responses; correlations of 0.6 within blocks."""
    return BlockGaussian(
        log_mass=np.log([0.5, 0.5]),
        centre=np.array([0.2, 0.8]),
        spread=np.array([0.1, 0.15]),
        weight=np.array([
            [[2, -5], [-1, 2], [0, 1], [1, 0], [0.5, -1], [0, 3]], [[0, 0.1], [1, 1], [1, -2], [-1, 1], [0, 0], [2, -1]]
        ]),
        covariance=_VARIANCE * (_CORRELATION * together(TRUE_BLOCKS) + (1 - _CORRELATION) * np.eye(6)),
    )  # fmt: skip


def true_log_density(x: Float[np.ndarray, "S"], y: Float[np.ndarray, "S _"]) -> Float[np.ndarray, "S"]:
    """Of y given x under the truth; float64 must be on."""
    data = products(x, y, 1)
    rows = jnp.asarray(data.products.reshape(-1, data.products.shape[-1])[: len(x)])
    return np.asarray(jax.jit(log_density)(jax.tree.map(jnp.asarray, truth()), rows))


def same_blocks(blocks: Any) -> bool:
    """Whether two experts have the truth's partitions, in either order."""
    true = {tuple(numbered(row)) for row in TRUE_BLOCKS}
    return {tuple(numbered(row)) for row in np.asarray(blocks)} == true


def started(x: Any, y: Any, experts: int, degree: int, draw: np.random.Generator) -> BlockGaussian:
    """Fitted to observations owned by the nearest of `experts` that are drawn far from each other (k-means++), as GLoME's."""
    points = np.concatenate([x[:, None], y], axis=1)
    points = points / points.std(axis=0)
    nearest, owner = np.full(len(x), np.inf), np.zeros(len(x), int)
    for expert in range(experts):
        chance = nearest / nearest.sum() if expert else None
        off = np.sum((points - points[draw.choice(len(x), p=chance)]) ** 2, axis=1)
        owner, nearest = np.where(off < nearest, expert, owner), np.minimum(off, nearest)
    data = products(x, y, degree)
    rows = data.products.reshape(-1, data.products.shape[-1])[: len(x)]
    within = np.ones((experts, y.shape[1], y.shape[1]))
    return _maximised(jnp.asarray(np.eye(experts)[owner].T @ rows), jnp.asarray(within), _FLOOR)


_maximised = jax.jit(maximised)


def _stacked(models: list[BlockGaussian]) -> BlockGaussian:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


@jax.jit
def _scored(models: BlockGaussian, own: Blocks, test: Blocks, true: Float[Array, "S"]) -> tuple[Array, Array]:
    """Contrast on the data, and divergence from the truth by its draws, of every model.

    The divergence is the mean of ratio - 1 - log ratio, fitted to true density: ratios average to one, and the spread of this is far less.
    """

    def one(params: BlockGaussian) -> tuple[Array, Array]:
        found = jax.vmap(lambda rows: log_density(params, rows))(own.products)
        off = jax.vmap(lambda rows: log_density(params, rows))(test.products).reshape(-1)[: len(true)] - true
        return -jnp.sum(jnp.where(own.present > 0, found, 0.0)), jnp.mean(jnp.expm1(off) - off)

    return jax.lax.map(one, models)


def _expected(rule: str, quantity: str, value: float, tolerance: float, why: str) -> Expected:
    return Expected(quantity=f"{rule}: {quantity}", value=value, tolerance=tolerance, why=why)


EXAMPLES = (BlockSelection(),)
