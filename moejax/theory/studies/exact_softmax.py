"""Dense softmax gate, as many experts as the truth has: every parameter at the rate n^(-1/2).

Data and truth are those of the published simulation; the estimate is the maximum of the likelihood by Newton's method.
Source: Nguyen et al. 2023 ("Demystifying softmax gating function in Gaussian mixture of experts"), section 4 and theorem 1.
Deviations: inputs are drawn uniformly, where the authors' code takes a fixed grid; Newton replaces EM, whose relative tolerance
    of 1e-6 ends long before the maximum; sizes are spaced evenly in log n.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.theory.findings import Chart, Expected, Finding
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.newton import maximise
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.softmax_gaussian import BIAS, KERNEL, LOG_VARIANCE, SHIFT, WEIGHT, WIDTH, derivatives, pack
from moejax.theory.studies.contract import Raw
from moejax.theory.voronoi import GATE, LOCATION_SCALE, MixingMeasure, aligned_loss

NAMES = ("gate bias", "gate kernel", "weight", "bias", "variance")
TRUTH: dict[str, Any] = {  # the published one; its last expert's gate is pinned at zero
    "gate": {"kernel": np.array([[25.0, 0.0]]), "bias": np.array([-8.0, 0.0])},
    "weight": np.array([-20.0, 20.0]),
    "bias": np.array([15.0, -5.0]),
    "log_variance": np.log([0.09, 0.16]),
}
_CONVERGED = 1e-6  # largest entry of the gradient of the log-likelihood per example above which a fit has failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactSoftmax:
    """Starts lie within `start_noise` standard deviations of size n^(-1/12) around the truth, as in the authors' code."""

    sizes: tuple[int, ...] = tuple(int(round(n)) for n in np.geomspace(100, 100_000, 13))
    replicates: int = 40
    seed: int = 0
    iterations: int = 25
    start_noise: float = 0.05
    at_once: int = 8

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 2 * WIDTH)

    @property
    def claim(self) -> str:
        return "With the right number of experts every parameter of a softmax-gated Gaussian mixture is estimated at n^(-1/2)."

    @property
    def protocol(self) -> str:
        return "The published truth and starts, inputs uniform in [0, 1]; Newton's method to the maximum of the likelihood."

    @property
    def expected(self) -> tuple[Expected, ...]:
        """The loss, and the numbers of the expert that the gate opens nearly everywhere."""
        own = (
            Expected(quantity="D1", value=-0.5, tolerance=0.05, published=-0.493, why="the Voronoi loss of theorem 1"),
        )
        return own + tuple(Expected(quantity=f"{name} 2", value=-0.5, tolerance=0.08) for name in NAMES[2:])

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(str(n) for n in self.sizes)

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        return rate_findings(self.expected, self._errors(raw))

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        return Chart(curves=error_curves(self._errors(raw), [one.quantity for one in self.expected]))

    def estimates(self, part: str) -> Raw:
        """'params' [R 10], with 'value' and 'slope', the log-likelihood and the largest entry of its gradient, per example, and
        'curvature', the least eigenvalue of minus its Hessian.
        """
        num_examples = int(part)
        draw = np.random.default_rng((self.seed, num_examples))
        x = draw.uniform(0, 1, (self.replicates, num_examples))
        y = np.stack([GaussianMoE().sample(TRUTH, row, draw) for row in x])
        noise = self.start_noise * num_examples ** (-1 / 12) * draw.standard_normal((self.replicates, pack(TRUTH).size))
        starts = pack(TRUTH)[None] + noise * _free()[None]
        with jax.enable_x64(True):
            fits = _fitted(jnp.asarray(starts), jnp.asarray(x), jnp.asarray(y), self)
            found = {name: np.asarray(getattr(fits, name)) for name in ("params", "value", "slope", "curvature")}
        return found | {name: found[name] / num_examples for name in ("value", "slope", "curvature")}

    def errors(self, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate, NaN where its fit failed: 'D1', and the distance of every parameter of every expert."""
        failed = ~(raw["slope"] < _CONVERGED)
        found = {
            "D1": np.array(
                [aligned_loss(measure(theta), measure(pack(TRUTH)), LOCATION_SCALE).loss for theta in raw["params"]]
            )
        }
        rows, truth = raw["params"].reshape(len(failed), -1, WIDTH), pack(TRUTH).reshape(-1, WIDTH)
        for expert in range(rows.shape[1]):
            for place, name in enumerate(NAMES):
                wide = np.exp if name == "variance" else (lambda values: values)
                found[f"{name} {expert + 1}"] = np.abs(wide(rows[:, expert, place]) - wide(truth[expert, place]))
        pinned = {f"{name} {len(truth)}" for name in NAMES[:2]}
        return {name: np.where(failed, np.nan, errors) for name, errors in found.items() if name not in pinned}

    def _errors(self, raw: Mapping[str, Raw]) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        return {n: self.errors(raw[str(n)]) for n in self.sizes}


def measure(theta: Float[np.ndarray, "_"]) -> MixingMeasure:
    """The mixing measure of packed parameters."""
    rows = np.asarray(theta).reshape(-1, WIDTH)
    columns = {GATE: KERNEL, "weight": WEIGHT, "bias": SHIFT, "variance": LOG_VARIANCE}
    atoms = {name: rows[:, column, None] for name, column in columns.items()}
    return MixingMeasure(rows[:, BIAS], atoms | {"variance": np.exp(atoms["variance"])})


def _free() -> Any:
    """All but the gate of the last expert, which is the translation."""
    free = np.ones((len(TRUTH["weight"]), WIDTH), bool)
    free[-1, [BIAS, KERNEL]] = False
    return free.reshape(-1)


def _fitted(starts: Float[Array, "_ _"], x: Float[Array, "_ _"], y: Float[Array, "_ _"], study: ExactSoftmax) -> Any:
    """All replicates of one size in one compiled call, `at_once` of them side by side."""

    def one(arrays: tuple[Array, Array, Array]) -> Any:
        start, x, y = arrays
        weight = jnp.full(x.shape, 1.0, x.dtype)
        return maximise(
            lambda theta: derivatives(theta, x, y, weight),
            start,
            iterations=study.iterations,
            free=jnp.asarray(_free()),
        )

    return jax.jit(lambda *arrays: jax.lax.map(one, arrays, batch_size=study.at_once))(starts, x, y)


EXAMPLES = (ExactSoftmax(),)
