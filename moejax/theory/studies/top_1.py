"""One selected expert of two: experts at the rate n^(-1/2), the boundary between them at 1/n, and a gate that no data show.

The softmax of one score is one, so that the gate's bias and kernel enter the likelihood only through the place where its
scores cross. That place is estimated exactly by `profile`; the loss is taken at the gate with the true kernel and that boundary,
the one of all equivalent gates that lies nearest to the truth up to rounding of the boundary.
Source: Nguyen et al. 2024 ("Statistical perspective of top-K sparse softmax gating mixture of experts"), section 3.1 and appendix D,
    whose published truth and K = 1 these are.
Deviations: the exact maximum in place of EM, whose gradient step on the gate cannot see a likelihood that jumps; the loss counts no
    error along the flat direction of the gate.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from moejax.theory.findings import Chart, Expected, Finding, untestable
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.profile import fit_two_sides
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.softmax_gaussian import BIAS, KERNEL, WIDTH, pack
from moejax.theory.studies.contract import Raw
from moejax.theory.studies.exact_softmax import NAMES, TRUTH, measure
from moejax.theory.voronoi import LOCATION_SCALE, aligned_loss

MODEL = GaussianMoE(num_selected_experts=1)
_SMALLEST = 0.2  # share of the examples that either side is sure to have, or a size is too small for the study


@dataclasses.dataclass(frozen=True, kw_only=True)
class Top1:
    """fewest: examples on either side of the boundary, in place of the compact set of the theorem."""

    sizes: tuple[int, ...] = tuple(int(round(n)) for n in np.geomspace(100, 100_000, 13))
    replicates: int = 40
    seed: int = 0
    fewest: int = 5

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, int(self.fewest / _SMALLEST))

    @property
    def claim(self) -> str:
        return "With the right number of experts and a top-1 gate every parameter is estimated at n^(-1/2) (top-K paper, theorem 1)."

    @property
    def protocol(self) -> str:
        return (
            "The published truth with K = 1, inputs uniform in [0, 1]; the exact maximum of the likelihood over all places of the "
            "boundary; the loss at the true gate kernel, since the gate itself is not identified."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        """The loss, the boundary and both experts."""
        loss = Expected(
            quantity="D1",
            value=-0.5,
            tolerance=0.05,
            agreed="confirmed with the corrected protocol",
            why="the Voronoi loss of theorem 1, without what it counts along the gate's flat direction",
        )
        boundary = Expected(
            quantity="boundary",
            value=-1.0,
            tolerance=0.1,
            why="a density that jumps at the boundary shows it at 1/n, as the uniform law its end (ours; no rate of it is published)",
        )
        experts = (f"{name} {expert + 1}" for expert in range(2) for name in NAMES[2:])
        return loss, boundary, *(Expected(quantity=name, value=-0.5, tolerance=0.08) for name in experts)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(str(n) for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'params' [R 10], packed, at the true kernel and the estimated boundary; 'boundary' [R]; 'value' [R], per example."""
        num_examples = int(part)
        draw = np.random.default_rng((self.seed, num_examples))
        truth, params, places, values = pack(TRUTH).reshape(-1, WIDTH), [], [], []
        xs = draw.uniform(0, 1, (self.replicates, num_examples))
        ys = MODEL.sample(TRUTH, xs.reshape(-1), draw).reshape(xs.shape)
        for x, y in zip(xs, ys, strict=True):
            found = fit_two_sides(x, y, fewest=self.fewest)
            # The first expert has the larger kernel: it is the one to the right.
            experts = [(side.weight, side.bias, np.log(side.variance)) for side in (found.right, found.left)]
            gates = [(-truth[0, KERNEL] * found.boundary, truth[0, KERNEL]), (0.0, 0.0)]
            params.append(np.concatenate([gate + expert for gate, expert in zip(gates, experts, strict=True)]))
            places.append(found.boundary)
            values.append(found.value)
        return {"params": np.stack(params), "boundary": np.array(places), "value": np.array(values)}

    def errors(self, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate: 'D1', 'boundary', and the distance of every number of both experts. None can fail."""
        truth = pack(TRUTH)
        rows, true_rows = raw["params"].reshape(-1, 2, WIDTH), truth.reshape(-1, WIDTH)
        crossing = -true_rows[0, BIAS] / true_rows[0, KERNEL]
        loss = [
            aligned_loss(measure(theta), measure(truth), LOCATION_SCALE, num_selected_experts=1).loss
            for theta in raw["params"]
        ]
        found = {"D1": np.array(loss), "boundary": np.abs(raw["boundary"] - crossing)}
        for expert in range(2):
            for place, name in list(enumerate(NAMES))[2:]:
                wide = np.exp if name == "variance" else (lambda values: values)
                found[f"{name} {expert + 1}"] = np.abs(wide(rows[:, expert, place]) - wide(true_rows[expert, place]))
        return found

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        gates = (
            untestable(
                Expected(quantity=f"{name} 1", value=-0.5, tolerance=0.08, why="counted by the loss of theorem 1"),
                "not identified: with one selected expert its gate is one whatever its score, so that (bias, kernel) -> c (bias, kernel) "
                "for every c > 0 leaves the model unchanged. Only the boundary -bias / kernel shows, and the loss is taken there.",
            )
            for name in NAMES[:2]
        )
        return rate_findings(self.expected, self._errors(raw)) + tuple(gates)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        return Chart(curves=error_curves(self._errors(raw), ["D1", "boundary", "weight 2", "bias 2", "variance 2"]))

    def _errors(self, raw: Mapping[str, Raw]) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        return {n: self.errors(raw[str(n)]) for n in self.sizes}


EXAMPLES = (Top1(),)
