"""Multinomial logistic experts: rates of a fit with one expert too many, and why a constant expert leaves it without any.

Where every expert depends on its input, a split expert is estimated at n^(-1/4) and the loss falls at n^(-1/2). A constant expert can be
split in a continuum of ways that leave the density as it is, under the standard and under the modified gate: the claimed 'slower than
any polynomial' is the absence of a rate. With the right number of experts its parameters do have one.
Source: Nguyen et al. 2024 ("A general theory for softmax gating multinomial logistic mixture of experts"), theorems 1 to 4, D1.
Deviations: truth, starts and sizes are ours; inputs take 40 values, so that counts are all that the likelihood needs. The truth has
    three classes and steep experts, chosen for a large second-order modulus (the least change of the density by a merging pair, to
    second order, once first-order changes are taken out): where it is small, no n below 10^10 tells a pair apart. Errors of an expert's
    vectors are Euclidean, where the paper sums over classes.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.theory.findings import Chart, Curve, Expected, Finding, judged, untestable
from moejax.theory.identifiability import flat_directions, parameter_names
from moejax.theory.multinomial_moe import MultinomialMoE, split_constant_expert
from moejax.theory.newton import by_autodiff, maximise
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.studies.contract import Raw
from moejax.theory.voronoi import GATE, MixingMeasure, Powers, voronoi_loss

_POWERS: Powers = {GATE: lambda atoms: 2.0, "intercept": lambda atoms: 2.0, "slope": lambda atoms: 2.0}
_WIDTH = 6  # numbers of an expert on three classes: gate bias and kernel, two intercepts, two slopes
_GATES = ("identity", "tanh")
_IDENTICAL = 1e-14  # largest difference of two probabilities that is rounding
_CELL = {"cell gate": GATE, "cell intercept": "intercept", "cell slope": "slope"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multinomial:
    """starts: of every fit with an expert too many; the best likelihood of them is kept. start_distance: of the two halves of the split
    expert from the truth, the same at every n, so that no rate is that of the starts.
    """

    sizes: tuple[int, ...] = (10**7, 10**8, 10**9, 10**10, 10**11, 10**12)
    replicates: int = 30
    seed: int = 0
    starts: int = 4
    start_distance: float = 0.3
    iterations: int = 120
    num_inputs: int = 40
    at_once: int = 8

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 100)

    @property
    def claim(self) -> str:
        return (
            "Experts that depend on their input are estimated at n^(-1/2), split ones at n^(-1/4); constant ones more slowly than at "
            "any polynomial rate, unless the gate's input is transformed."
        )

    @property
    def protocol(self) -> str:
        return (
            f"Three classes, two experts fitted to two and three to two, the standard gate and one of tanh(x); maximum likelihood by "
            f"Newton's method from {self.starts} starts, n = 10^{np.log10(min(self.sizes)):.0f} to 10^{np.log10(max(self.sizes)):.0f}."
        )

    @property
    def x(self) -> Float[np.ndarray, "_"]:
        return np.linspace(-3.0, 3.0, self.num_inputs)

    @property
    def parts(self) -> tuple[str, ...]:
        """'split' fits three experts to two that depend on the input, 'constant' two to two of which one does not."""
        return tuple(f"{case}-{gate}-{n}" for case in ("split", "constant") for gate in _GATES for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'params' [R P] in the order of `jax.flatten_util`, with 'slope', the largest entry of the gradient per observation, and
        'curvature', the least eigenvalue of minus the Hessian per observation.
        """
        case, gate, size = part.split("-")
        draw = np.random.default_rng((self.seed, case == "constant", _GATES.index(gate), int(size)))
        true, model = truth(constant=case == "constant"), MultinomialMoE(gate_input=gate)  # type: ignore[arg-type]
        counts = np.stack([model.counts(true, self.x, int(size), draw) for _ in range(self.replicates)])
        if case == "split":
            starts = [
                [_split(true, self.start_distance, draw) for _ in range(self.starts)] for _ in range(self.replicates)
            ]
        else:
            starts = [[true] for _ in range(self.replicates)]
        packed = np.array([[_pack(start) for start in row] for row in starts])
        with jax.enable_x64(True):
            fits = _fitted(jnp.asarray(packed), jnp.asarray(counts / float(size)), self, model)
            found = {name: np.asarray(getattr(fits, name)) for name in ("params", "value", "slope", "curvature")}
        best = np.argmax(found.pop("value"), axis=1)
        return {name: values[np.arange(self.replicates), best] for name, values in found.items()}

    def errors(self, part: str, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate, NaN where its fit failed: 'D1', and the largest error of each parameter in the cell of the first expert
        ('cell gate', 'cell intercept', 'cell slope'), of the second expert's intercept ('singleton'), and of the first cell's mass.
        """
        case, _, size = part.split("-")
        failed = ~(raw["slope"] < 0.01 * float(size) ** -0.5)  # a hundredth of the noise of the gradient at the truth
        true = _measure(_pack(truth(constant=case == "constant")))
        losses = [voronoi_loss(_measure(theta), true, _POWERS) for theta in raw["params"]]
        found = {"D1": np.array([one.loss for one in losses])}
        found |= {name: np.array([one.errors[entry][0] for one in losses]) for name, entry in _CELL.items()}
        found["singleton"] = np.array([one.errors["intercept"][1] for one in losses])
        found["mass"] = np.array([one.errors["mass"][0] for one in losses])
        return {name: np.where(failed, np.nan, values) for name, values in found.items()}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for gate in _GATES:
            found += rate_findings(_expected("split", gate), self._errors(raw, "split", gate))
        for gate in _GATES:
            found += rate_findings(_expected("constant", gate), self._errors(raw, "constant", gate))
            difference, reason = self.exact_split(gate)
            same = Expected(
                quantity=f"{_case('constant', gate)}: change of the density by an exact split",
                value=0.0,
                tolerance=_IDENTICAL,
                why="two constant experts whose mixture is one constant expert",
            )
            found.append(judged(same, difference, (difference, difference)))
            rate = Expected(
                quantity=f"{_case('constant', gate)}, one expert too many: D1",
                value=0.0 if gate == "identity" else -0.5,
                tolerance=0.1,
                why="slower than any polynomial; by the modified gate n^(-1/2)"
                if gate == "identity"
                else "the modified gate",
            )
            found.append(untestable(rate, reason))
        return tuple(found)

    def exact_split(self, gate: str) -> tuple[float, str]:
        """The largest change of a probability by a split of the constant expert, and the directions in which the split may move."""
        model, true = MultinomialMoE(gate_input=gate), truth(constant=True)  # type: ignore[arg-type]
        split = split_constant_expert(true, 0, 0.4, np.array([0.2, 0.2, 0.6]))
        difference = np.abs(model.probabilities(split, self.x) - model.probabilities(true, self.x)).max()
        names = parameter_names(split)
        free = [index for index, name in enumerate(names) if name not in ("gate bias 2", "gate kernel 0 2")]
        information = model.fisher_information(split, self.x)[np.ix_(free, free)]
        flat = flat_directions(information, [names[index] for index in free], tolerance=1e-11)
        along = "; ".join(" : ".join(direction.change) for direction in flat)
        reason = (
            "the constant expert is any mixture w q1 + (1 - w) q2 with its probabilities, and the density is the same for all of them; at "
            f"one of them the Fisher information has {len(flat)} flat directions ({along})."
        )
        return float(difference), reason

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """The loss and the split expert's intercept under both gates."""
        curves: list[Curve] = []
        for gate in _GATES:
            names = [f"{_case('split', gate)}: {name}" for name in ("D1", "cell intercept")]
            curves += error_curves(self._errors(raw, "split", gate), names, summary="median")
        return Chart(curves=tuple(curves))

    def _errors(self, raw: Mapping[str, Raw], case: str, gate: str) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        parts = {n: f"{case}-{gate}-{n}" for n in self.sizes}
        found = {n: self.errors(part, raw[part]) for n, part in parts.items()}
        return {n: {f"{_case(case, gate)}: {name}": values for name, values in one.items()} for n, one in found.items()}


def truth(*, constant: bool) -> Any:
    """Two experts on three classes; the first does not depend on its input where `constant`. The second one's gate is pinned at zero."""
    first = np.zeros(2) if constant else np.array([-2.0, 3.0])
    return {
        "gate": {"bias": np.array([0.2, 0.0]), "kernel": np.array([[1.0, 0.0]])},
        "intercept": np.array([[-1.0, -0.5], [0.0, -1.0]]),
        "slope": np.stack([first, np.array([3.5, -3.0])]),
    }


def _case(case: str, gate: str) -> str:
    return (
        "experts of the input" if case == "split" else "a constant expert"
    ) + f", gate of {'x' if gate == 'identity' else 'tanh(x)'}"


def _expected(case: str, gate: str) -> list[Expected]:
    """Medians: the distribution of a split expert has a heavy tail of other maxima."""

    def one(name: str, value: float, tolerance: float, why: str = "") -> Expected:
        quantity = f"{_case(case, gate)}: {name}"
        return Expected(quantity=quantity, value=value, tolerance=tolerance, summary="median", why=why)

    loss = one("D1", -0.5, 0.1, "the Voronoi loss" + ("" if case == "split" else ", as many experts as the truth"))
    if case == "constant":
        return [loss, one("cell intercept", -0.5, 0.1, "as many experts as the truth")]
    cell = [one(name, -0.25, 0.08, "two fitted experts near one true") for name in _CELL]
    return [loss, *cell, one("singleton", -0.5, 0.1), one("mass", -0.5, 0.1)]


def _pack(params: Any) -> Float[np.ndarray, "_"]:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def _unpack(theta: Any) -> Any:
    """Of any number of experts on three classes: six numbers each."""
    experts = theta.shape[0] // _WIDTH
    bias, kernel, rest = theta[:experts], theta[experts : 2 * experts], theta[2 * experts :]
    intercept, slope = rest.reshape(2, experts, 2)
    return {"gate": {"bias": bias, "kernel": kernel[None]}, "intercept": intercept, "slope": slope}


def _measure(theta: Float[np.ndarray, "_"]) -> MixingMeasure:
    params = _unpack(theta)
    atoms = {GATE: params["gate"]["kernel"].T, "intercept": params["intercept"], "slope": params["slope"]}
    return MixingMeasure(params["gate"]["bias"], atoms)


def _split(true: Any, distance: float, draw: np.random.Generator) -> Any:
    """The truth with its first expert twice, at half the mass, moved apart by `distance` either way in a random direction."""
    way = draw.standard_normal(5)
    way *= distance / np.linalg.norm(way)
    bias, kernel = true["gate"]["bias"], true["gate"]["kernel"]
    pair = np.array([1.0, -1.0])[:, None]
    return {
        "gate": {
            "bias": np.concatenate([np.full(2, bias[0] - np.log(2.0)), bias[1:]]),
            "kernel": np.concatenate([kernel[:, [0, 0]] + way[0] * pair.T, kernel[:, 1:]], axis=1),
        },
        "intercept": np.concatenate([true["intercept"][[0, 0]] + pair * way[1:3], true["intercept"][1:]]),
        "slope": np.concatenate([true["slope"][[0, 0]] + pair * way[3:], true["slope"][1:]]),
    }


@functools.partial(jax.jit, static_argnames=("study", "model"))
def _fitted(
    starts: Float[Array, "_ _ _"], shares: Float[Array, "_ _ _"], study: Multinomial, model: MultinomialMoE
) -> Any:
    """All replicates and starts of one size; the likelihood is per observation and the last expert's gate pinned."""
    x, experts = jnp.asarray(study.x), starts.shape[-1] // _WIDTH
    free = np.ones(starts.shape[-1], bool)
    free[[experts - 1, 2 * experts - 1]] = False

    def one(arrays: tuple[Array, Array]) -> Any:
        own, share = arrays
        value = by_autodiff(lambda theta: jnp.sum(share * model.log_density(_unpack(theta), x)))
        fit = functools.partial(maximise, value, iterations=study.iterations, free=jnp.asarray(free))
        return jax.vmap(fit)(own)

    return jax.lax.map(one, (starts, shares), batch_size=study.at_once)


EXAMPLES = (Multinomial(),)
