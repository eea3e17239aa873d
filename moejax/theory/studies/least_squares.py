"""Least squares with one expert too many: sigmoid experts are found at polynomial rates, linear ones are not found at all.

Two linear experts under the same gate may move apart in opposite directions and nothing changes: only the mean of the two is seen.
Source: Nguyen, Ho and Rinaldo 2024 ("On least square estimation in softmax gating mixture of experts"), theorems 1 to 3 and the
    simulation with h1 = sigmoid(a x + b) and h2 = a x + b.
Deviations: own truth, inputs on a grid of [-3, 3] (the paper: uniform in [0, 1]), so that sizes at which the rates of sigmoid
    experts show can be drawn; the slow rate of linear experts is given as the flat direction that causes it.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from moejax.theory.findings import Chart, Expected, Finding, judged, untestable
from moejax.theory.least_squares_moe import (
    BIAS,
    SHIFT,
    WEIGHT,
    WIDTH,
    LeastSquaresMoE,
    check_grid,
    host_regression,
    mean_responses,
    measure,
    split_starts,
)
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.studies.contract import Raw
from moejax.theory.voronoi import GATE, Powers, VoronoiLoss, aligned_loss

TRUTH = np.array([[0.3, 1.5, 3.0, 1.0], [0.0, 0.0, -2.0, 1.5]]).reshape(-1)
"""Two experts; the second's gate is zero, which is the translation."""
POWERS: Powers = {name: lambda atoms: 2.0 for name in (GATE, "weight", "bias")}
"""Cells of several atoms of strongly identifiable experts: D1 of the source."""
EXPERTS = ("sigmoid", "linear")
_CONVERGED = 1e-2  # largest entry of the gradient above which a fit has failed, in units of its deviation at the truth
_FLAT = "linear experts of one gate may move apart, a1 + t / p1 and a2 - t / p2 with masses p, and the function stays the same"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """grid: values of x in [-3, 3]. noise: standard deviation of responses. widths: of the starts about the truth, the same at
    every size, so that no rate is that of the starts. bound: of all parameters, as the theorems ask for.
    """

    sizes: tuple[int, ...] = tuple(10**power for power in range(6, 13))
    replicates: int = 20
    seed: int = 0
    grid: int = 60
    noise: float = 0.01
    iterations: int = 200
    bound: float = 8.0
    widths: tuple[float, ...] = (0.1, 0.1, 0.3, 0.3)

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, self.grid)
        check_grid(self.grid)

    @property
    def claim(self) -> str:
        return "Sigmoid experts are estimated at polynomial rates by least squares when there is one too many, linear ones slower than any."

    @property
    def protocol(self) -> str:
        return (
            f"Two true experts, three fitted (two for 'exact'), by the method of Gauss and Newton from {2 * len(self.widths)} starts, the best kept; "
            f"responses are means at {self.grid} inputs with noise {self.noise}, exact for least squares."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        return (
            Expected(
                quantity="D1 sigmoid", value=-0.5, tolerance=0.06, summary="median", why="the Voronoi loss of theorem 2"
            ),
            Expected(
                quantity="cell expert sigmoid",
                value=-0.25,
                tolerance=0.06,
                why="weight and bias of the two atoms of one cell",
            ),
            Expected(quantity="D1 exact sigmoid", value=-0.5, tolerance=0.06, why="theorem 1: two experts fitted"),
            Expected(
                quantity="D1 exact linear",
                value=-0.5,
                tolerance=0.06,
                why="two experts fitted: linear ones are identified",
            ),
            Expected(
                quantity="function sigmoid",
                value=-0.5,
                tolerance=0.05,
                why="root of the mean squared error of the function",
            ),
            Expected(
                quantity="function linear",
                value=-0.5,
                tolerance=0.05,
                why="root of the mean squared error of the function",
            ),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(
            f"{kind}-{n}" for kind in ("sigmoid", "linear", "exact-sigmoid", "exact-linear") for n in self.sizes
        )

    def estimates(self, part: str) -> Raw:
        """'params' [R 4E], with 'value', 'slope' and 'curvature' [R] of the least squares, and 'function' [R], its error at the inputs."""
        kind, _, size = part.rpartition("-")
        num_examples, expert = int(size), kind.rpartition("-")[2]
        model, extra = LeastSquaresMoE(expert=expert, bound=self.bound), not kind.startswith("exact")  # type: ignore[arg-type]
        draw = np.random.default_rng((self.seed, EXPERTS.index(expert), extra, num_examples))
        x = np.linspace(-3, 3, self.grid)
        truth = host_regression(model, TRUTH, x)
        means = mean_responses(truth, num_examples, self.noise, self.replicates, draw)
        starts = split_starts(TRUTH, np.array(self.widths), self.replicates, draw, extra=extra)
        found = model.best_fits(starts, x, means, iterations=self.iterations)
        fitted = np.stack([host_regression(model, theta, x) for theta in found["params"]])
        return found | {"function": np.sqrt(np.mean((fitted - truth[None]) ** 2, axis=1))}

    def errors(self, part: str, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate, NaN where its fit failed: 'D1', 'function', and with three experts 'cell expert', of atoms that share a cell."""
        num_examples = int(part.rpartition("-")[2])
        failed = ~(raw["slope"] < _CONVERGED * self.noise / np.sqrt(num_examples))
        losses = [aligned_loss(measure(theta), measure(TRUTH), POWERS) for theta in raw["params"]]
        found = {"D1": np.array([one.loss for one in losses]), "function": raw["function"]}
        if not part.startswith("exact"):
            found["cell expert"] = np.array([_cell_error(one) for one in losses])
        return {name: np.where(failed, np.nan, values) for name, values in found.items()}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        flat = float(np.abs(self._along_the_flat_direction()).max())
        change = Expected(
            quantity="flat direction linear", value=0.0, tolerance=1e-12, why=f"largest change of the function: {_FLAT}"
        )
        lost = Expected(quantity="D1 linear", value=0.0, tolerance=0.0, why="slower than any power of n")
        errors = self._errors(raw)
        own = rate_findings(self.expected, errors)
        failed = sum(int(np.sum(~np.isfinite(errors[n]["D1 linear"]))) for n in self.sizes)
        return *own, judged(change, flat, (flat, flat)), untestable(lost, f"not identified: {_FLAT}.", failed=failed)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        names = ("D1 sigmoid", "D1 linear", "D1 exact sigmoid", "D1 exact linear", "cell expert sigmoid")
        return Chart(curves=error_curves(self._errors(raw), names, summary="median"))

    def _errors(self, raw: Mapping[str, Raw]) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        found: dict[int, dict[str, np.ndarray]] = {n: {} for n in self.sizes}
        for part in self.parts:
            kind, _, size = part.rpartition("-")
            for name, values in self.errors(part, raw[part]).items():
                found[int(size)][f"{name} {kind.replace('-', ' ')}"] = values
        return found

    def _along_the_flat_direction(self) -> Float[np.ndarray, "_"]:
        """Change of the function where the first expert becomes two of masses 1/4 and 3/4 that are moved apart by as much as one."""
        first, second = TRUTH.reshape(-1, WIDTH)
        twins = np.stack([first, first])
        twins[:, BIAS] += np.log([0.25, 0.75])
        twins[:, [WEIGHT, SHIFT]] += np.array([[0.75], [-0.25]])
        x, model = np.linspace(-3, 3, self.grid), LeastSquaresMoE(expert="linear")
        return host_regression(model, np.concatenate([twins.reshape(-1), second]), x) - host_regression(model, TRUTH, x)


def _cell_error(loss: VoronoiLoss) -> float:
    """Largest distance of weight and bias among the atoms of cells that hold several; NaN where there is none."""
    count = np.bincount(loss.cells, minlength=len(loss.errors["weight"]))
    shared = count > 1
    if not shared.any():
        return float("nan")
    return float(max(loss.errors[name][shared].max() for name in ("weight", "bias")))


EXAMPLES = (LeastSquares(),)
