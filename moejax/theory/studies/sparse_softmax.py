"""Two selected experts of three: a sparse gate under which every parameter is identified, and at the rate n^(-1/2).

Experts are selected by the inner product alone, and inputs lie on both sides of zero: so each pair of neighbours is seen, and the
density is smooth in the parameters. The published setting has one selected expert, whose gate no data show (`top_1`).
Source: Nguyen et al. 2024 ("Statistical perspective of top-K sparse softmax gating mixture of experts"), equations 1 and 2 and
    theorem 1.
Deviations: the truth is ours; Newton's method, over the sets of experts that the current gate selects, replaces EM.
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
from moejax.theory.multi_start import last_gate
from moejax.theory.newton import maximise
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.softmax_gaussian import WIDTH, derivatives, pack, unpack
from moejax.theory.studies.contract import Raw
from moejax.theory.studies.exact_softmax import NAMES, measure
from moejax.theory.voronoi import LOCATION_SCALE, aligned_loss, voronoi_loss

TRUTH: dict[str, Any] = {
    "gate": {"kernel": np.array([[2.0, 1.0, 0.0]]), "bias": np.array([0.5, -0.3, 0.0])},
    "weight": np.array([1.0, -1.0, 2.0]),
    "bias": np.array([3.0, 0.0, -3.0]),
    "log_variance": np.log([0.25, 0.36, 0.16]),
}
MODEL = GaussianMoE(num_selected_experts=2, select="inner")
_CONVERGED = 1e-6  # largest entry of the gradient of the log-likelihood per example above which a fit has failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseSoftmax:
    """Starts lie within `start_noise` standard deviations of size n^(-1/12) around the truth. at_once: replicates side by side."""

    sizes: tuple[int, ...] = tuple(int(round(n)) for n in np.geomspace(316, 31_623, 9))
    replicates: int = 40
    seed: int = 0
    iterations: int = 15
    start_noise: float = 0.05
    at_once: int = 4

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 3 * WIDTH)

    @property
    def claim(self) -> str:
        return "With the right number of experts and a top-K gate every parameter is estimated at n^(-1/2) (top-K paper, theorem 1)."

    @property
    def protocol(self) -> str:
        return (
            f"A truth of three experts, two of them selected by inner product, inputs uniform in [-1, 1]; {self.replicates} replicates at "
            f"{len(self.sizes)} sizes from {min(self.sizes)} to {max(self.sizes)}; Newton's method to the maximum of the likelihood."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        """The loss, the identified gates, and the expert that is open everywhere."""
        loss = Expected(
            quantity="D1",
            value=-0.5,
            tolerance=0.06,
            agreed="confirmed with the corrected protocol",
            why="the largest sum over two cells of theorem 1, with the last gate at zero as the papers fix it",
        )
        smallest = dataclasses.replace(
            loss, quantity="D1 over translations", why="the same, the smallest over translations of the fitted gates"
        )
        single = (f"{NAMES[1]} 1", f"{NAMES[1]} 2", *(f"{name} 2" for name in NAMES[2:]))
        return loss, smallest, *(Expected(quantity=name, value=-0.5, tolerance=0.08) for name in single)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(str(n) for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'params' [R 15], with 'value' and 'slope', the log-likelihood and the largest entry of its gradient, per example, and
        'curvature', the least eigenvalue of minus its Hessian.
        """
        num_examples, truth = int(part), pack(TRUTH)
        draw = np.random.default_rng((self.seed, num_examples))
        x = draw.uniform(-1, 1, (self.replicates, num_examples))
        y = MODEL.sample(TRUTH, x.reshape(-1), draw).reshape(x.shape)
        noise = self.start_noise * num_examples ** (-1 / 12) * draw.standard_normal((self.replicates, truth.size))
        with jax.enable_x64(True):
            starts = jnp.asarray(truth[None] + noise * last_gate(truth.size)[None])
            fits = _fitted(starts, jnp.asarray(x), jnp.asarray(y), self)
            found = {name: np.asarray(getattr(fits, name)) for name in ("params", "value", "slope", "curvature")}
        return found | {name: found[name] / num_examples for name in ("value", "slope", "curvature")}

    def errors(self, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate, NaN where its fit failed: 'D1' and 'D1 over translations', and the distance of every free parameter of every expert."""
        failed = ~((raw["slope"] < _CONVERGED) & (raw["curvature"] > 0))
        truth = pack(TRUTH)
        fitted, true = [measure(theta) for theta in raw["params"]], measure(truth)
        found = {}
        for name, loss in (("D1", voronoi_loss), ("D1 over translations", aligned_loss)):
            found[name] = np.array([loss(one, true, LOCATION_SCALE, num_selected_experts=2).loss for one in fitted])
        rows, true_rows = raw["params"].reshape(len(failed), -1, WIDTH), truth.reshape(-1, WIDTH)
        for expert in range(rows.shape[1]):
            for place, name in enumerate(NAMES):
                wide = np.exp if name == "variance" else (lambda values: values)
                found[f"{name} {expert + 1}"] = np.abs(wide(rows[:, expert, place]) - wide(true_rows[expert, place]))
        pinned = {f"{name} {len(true_rows)}" for name in NAMES[:2]}
        return {name: np.where(failed, np.nan, errors) for name, errors in found.items() if name not in pinned}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        return rate_findings(self.expected, self._errors(raw))

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        return Chart(curves=error_curves(self._errors(raw), [one.quantity for one in self.expected]))

    def _errors(self, raw: Mapping[str, Raw]) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        return {n: self.errors(raw[str(n)]) for n in self.sizes}


def _fitted(starts: Float[Array, "_ _"], x: Float[Array, "_ _"], y: Float[Array, "_ _"], study: SparseSoftmax) -> Any:
    """All replicates of one size in one compiled call, `at_once` of them side by side."""

    def one(arrays: tuple[Array, Array, Array]) -> Any:
        start, x, y = arrays
        weight = jnp.full(x.shape, 1.0, x.dtype)

        def objective(theta: Float[Array, "_"]) -> tuple[Array, Array, Array]:
            selected = jnp.isfinite(MODEL.log_gates(unpack(theta), x))
            return derivatives(theta, x, y, weight, selected)

        free = jnp.asarray(last_gate(start.shape[0]))
        return maximise(objective, start, iterations=study.iterations, free=free)

    return jax.jit(lambda *arrays: jax.lax.map(one, arrays, batch_size=study.at_once))(starts, x, y)


EXAMPLES = (SparseSoftmax(),)
