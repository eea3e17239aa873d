"""One expert too many under a sigmoid gate and under a softmax: how far every true expert is from the nearest fitted one.

Two atoms of a softmax share one true atom, where their errors cancel to some order, or to all of them. A sigmoid whose kernel is not
zero is no sum of two others, so that the atom too many closes, and the true ones are found as if it were not there. Linear experts are
the exception: s(u) h = h - s(-u) h, so that an expert's mirror image and one of a constant gate stand for it; starts lie near the truth.
Where a true kernel is zero, in the paper's first regime, its sigmoid is a constant that two others can share, and the softmax's rates return for
those fits that share it; as good are fits whose third expert is the null function, GELU(0), which belongs to no cell of the truth.
Source: Nguyen, Ho and Rinaldo 2024 ("Sigmoid gating is more sample efficient than softmax gating in mixture of experts"), theorems 2
    to 4 (both regimes: gate kernels of over-specified experts zero, and not) and the figure that compares the two gates.
Deviations: own truth, inputs on a grid, the error is that of the nearest fitted expert, since an expert too many has no true one under
    a sigmoid. Rates of ReLU and linear experts under a softmax are given as the flat directions that make them worse than any power.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from moejax.theory.findings import Chart, Expected, Finding, untestable
from moejax.theory.least_squares_moe import (
    SHIFT,
    WEIGHT,
    WIDTH,
    LeastSquaresMoE,
    check_grid,
    host_regression,
    mean_responses,
    split_starts,
)
from moejax.theory.over_seeds import share_finding
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.studies.contract import Raw

TRUTH = np.array([[0.3, 1.5, 3.0, 1.0], [0.0, -1.0, -2.0, 1.5]]).reshape(-1)
"""Of both gates; neither kernel is zero."""
CONSTANT = np.array([[0.3, 0.0, 3.0, 1.0], [0.0, -1.0, -2.0, 1.5]]).reshape(-1)
"""The same experts; the gate of the first does not depend on x."""
CASES = {"sigmoid": ("sigmoid", TRUTH), "softmax": ("softmax", TRUTH), "constant": ("sigmoid", CONSTANT)}
"""Gate and truth of the fits, by the first word of a part."""
GATES, EXPERTS = ("sigmoid", "softmax"), ("relu", "linear", "gelu")
_CONVERGED = 1e-2  # largest entry of the gradient above which a fit has failed, in units of its deviation at the truth
_FLAT = {
    "relu": "two ReLU experts of one gate may trade their sizes, c1 (a, b) and c2 (a, b) with p1 c1 + p2 c2 = 1",
    "linear": "two linear experts of one gate may move apart, a + t / p1 and a - t / p2",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmoidGate:
    """grid: values of x in [-3, 3]. noise: standard deviation of responses. widths: of the starts about the truth, of every
    size. bound: of all parameters, as the theorems ask for: an expert too many may run to infinity.
    """

    sizes: tuple[int, ...] = tuple(10**power for power in range(6, 13))
    replicates: int = 16
    seed: int = 0
    grid: int = 60
    noise: float = 0.01
    iterations: int = 300
    bound: float = 8.0
    widths: tuple[float, ...] = (0.1, 0.1, 0.3, 0.3)

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, self.grid)
        check_grid(self.grid)

    @property
    def claim(self) -> str:
        return (
            "With one expert too many, experts are found from fewer examples under a sigmoid gate than under a softmax."
        )

    @property
    def protocol(self) -> str:
        return (
            f"Data of a sigmoid and of a softmax mixture of the same two experts, three fitted by least squares with the same gate from "
            f"{2 * len(self.widths)} starts; and a sigmoid mixture one of whose gates is constant; responses are means at {self.grid} "
            f"inputs with noise {self.noise}."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        """Slopes of the distance to the nearest fitted expert."""
        own = [
            Expected(
                quantity=f"sigmoid {expert}",
                value=-0.5,
                tolerance=0.07,
                summary="median",
                why="theorem 4, second regime",
            )
            for expert in EXPERTS
        ]
        cell = Expected(
            quantity="softmax gelu, every atom",
            value=-0.25,
            tolerance=0.07,
            summary="median",
            why="largest distance of a fitted expert to its nearest true one: the rate of a cell of two strongly identifiable experts",
        )
        first = Expected(
            quantity="constant gelu, every atom",
            value=-0.25,
            tolerance=0.07,
            summary="median",
            why="the same distance under a sigmoid where a true gate is constant, the first regime; most fits make the atom too many the null "
            "expert, a = b = 0, whose GELU is zero, at a fixed distance of 2.5",
        )
        return *own, cell, first

    @property
    def parts(self) -> tuple[str, ...]:
        own = tuple(f"{gate}-{expert}-{n}" for gate in GATES for expert in EXPERTS for n in self.sizes)
        return own + tuple(f"constant-gelu-{n}" for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'params' [R 12], with 'value', 'slope' and 'curvature' [R] of the least squares."""
        case, expert, size = part.split("-")
        gate, true = CASES[case]
        model = LeastSquaresMoE(expert=expert, gating=gate, bound=self.bound)  # type: ignore[arg-type]
        draw = np.random.default_rng((self.seed, list(CASES).index(case), EXPERTS.index(expert), int(size)))
        x = np.linspace(-3, 3, self.grid)
        means = mean_responses(host_regression(model, true, x), int(size), self.noise, self.replicates, draw)
        starts = split_starts(true, np.array(self.widths), self.replicates, draw, shared_mass=case != "sigmoid")
        return model.best_fits(starts, x, means, iterations=self.iterations)

    def errors(self, part: str, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate, NaN where the fit failed: 'nearest', the sum over true experts of the distance to the nearest fitted one, and
        'every atom', the largest distance of a fitted expert to its nearest true one.
        """
        failed = ~(raw["slope"] < _CONVERGED * self.noise / np.sqrt(int(part.rpartition("-")[2])))
        apart = expert_distances(raw["params"])
        found = {"nearest": apart.min(axis=1).sum(axis=1), "every atom": apart.min(axis=2).max(axis=1)}
        return {name: np.where(failed, np.nan, values) for name, values in found.items()}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        errors = self._errors(raw)
        found = list(rate_findings(self.expected, errors))
        for expert in EXPERTS[:2]:
            failed = sum(int(np.sum(~np.isfinite(errors[n][f"softmax {expert}"]))) for n in self.sizes)
            for case, count in (("softmax", failed), ("constant", 0)):
                lost = Expected(
                    quantity=f"{case} {expert}", value=0.0, tolerance=0.0, why="slower than any power of n, or n^(-1/4)"
                )
                reason = f"not identified: {_FLAT[expert]}, and the function stays the same."
                found.append(untestable(lost, reason, failed=count))
        for expert in EXPERTS:
            below = Expected(
                quantity=f"sigmoid below softmax, {expert}",
                value=1.0,
                tolerance=0.0,
                why="share of sizes at which the sigmoid's median error is below the softmax's; the published figure",
            )
            pairs = [[_median(errors[n][f"{gate} {expert}"]) for gate in GATES] for n in self.sizes]
            found.append(share_finding(below, np.array([sigmoid < softmax for sigmoid, softmax in pairs])))
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        names = [f"{gate} {expert}" for gate in GATES for expert in EXPERTS] + ["constant gelu, every atom"]
        curves = error_curves(self._errors(raw), names, summary="median")
        return Chart(curves=curves, y_label="distance to the nearest fitted expert")

    def _errors(self, raw: Mapping[str, Raw]) -> dict[int, dict[str, np.ndarray]]:
        found: dict[int, dict[str, np.ndarray]] = {n: {} for n in self.sizes}
        for part in self.parts:
            gate, expert, size = part.split("-")
            errors = self.errors(part, raw[part])
            found[int(size)][f"{gate} {expert}"] = errors["nearest"]
            found[int(size)][f"{gate} {expert}, every atom"] = errors["every atom"]
        return found


def _median(errors: Float[np.ndarray, "_"]) -> float:
    """Of the fits that converged; infinite without any."""
    finite = errors[np.isfinite(errors)]
    return float(np.median(finite)) if len(finite) else float("inf")


def expert_distances(params: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, "_ _ _"]:
    """In weight and bias, of every fitted expert to every true one [R fitted true], for packed parameters [R 4E]."""
    fitted = params.reshape(len(params), -1, WIDTH)[:, :, [WEIGHT, SHIFT]]
    true = TRUTH.reshape(-1, WIDTH)[:, [WEIGHT, SHIFT]]
    return np.sqrt(np.sum((fitted[:, :, None] - true[None, None]) ** 2, axis=-1))


EXAMPLES = (SigmoidGate(),)
