"""A temperature that is learned: nothing in the gate can be estimated without an activation that forbids scaling, and all of it with one.

Kernel, bias and temperature of a linear or ReLU gate may be multiplied by one number: their ray is flat, exactly, so that the claimed
'slower than any polynomial' is no rate but the absence of one. What the ray leaves alone, the ratios, falls at n^(-1/2).
Source: Nguyen et al. 2024 ("Is temperature sample efficient for softmax Gaussian mixture of experts?"), sections 2 and 3.
Deviations: truth, starts and sizes are ours; inputs and responses lie on a lattice, whose likelihood is exact.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from moejax.core.errors import SpecError
from moejax.routing.gates.temperature import ACTIVATIONS, Temperature
from moejax.theory.findings import Chart, Curve, Expected, Finding, judged, untestable
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.identifiability import flat_directions, least_eigenvalue, parameter_names
from moejax.theory.lattice import Lattice
from moejax.theory.lattice_fit import cell_probabilities, lattice_fits
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.studies.contract import Raw

TRUTH: dict[str, Any] = {  # the second expert's gate is pinned at zero
    "gate": {"kernel": np.array([[2.0, 0.0]]), "bias": np.array([0.3, 0.0]), "log_temperature": np.log(0.8)},
    "weight": np.array([1.0, -1.0]),
    "bias": np.array([2.0, -2.0]),
    "log_variance": np.log([0.25, 0.36]),
}
_FLAT = 1e-12  # an eigenvalue below it is rounding: the largest is of size 100
_CONVERGED = 1e-6  # largest entry of the gradient of the log-likelihood per observation above which a fit has failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedTemperature:
    """routers: activations of the gate. Starts: the truth, with kernel, bias and temperature times exp(start_noise * N(0, 1))."""

    routers: tuple[str, ...] = ("identity", "relu", "tanh", "gelu")
    sizes: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
    replicates: int = 40
    seed: int = 0
    iterations: int = 25
    start_noise: float = 0.2
    at_once: int = 8
    lattice: Lattice = Lattice(step=0.4)

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 100)
        if not self.routers or set(self.routers) - set(ACTIVATIONS):
            raise SpecError(f"routers={self.routers} must be some of the activations {sorted(ACTIVATIONS)}.")

    @property
    def claim(self) -> str:
        return (
            "Temperature and kernel of a linear gate are estimated more slowly than at any polynomial rate; after a nonlinear "
            "activation at n^(-1/2)."
        )

    @property
    def protocol(self) -> str:
        return (
            f"Two experts fitted to two on a lattice, by Newton's method, {self.replicates} replicates, n = {min(self.sizes):,} to "
            f"{max(self.sizes):,}; the Fisher information tells what has no rate."
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"{router}-{n}" for router in self.routers for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'kernel', 'bias', 'temperature' of the first expert's gate and its 'weight', 'shift', 'log_variance' [R], with 'slope', the
        largest entry of the gradient per observation, and 'curvature', the least eigenvalue of minus the Hessian per observation.
        """
        router, size = part.rsplit("-", 1)
        draw = np.random.default_rng((self.seed, self.routers.index(router), int(size)))
        probabilities = cell_probabilities(_model(router), TRUTH, self.lattice)
        counts = np.stack([self.lattice.counts(probabilities, int(size), draw) for _ in range(self.replicates)])
        with jax.enable_x64(True):
            theta, unravel = ravel_pytree(jax.tree.map(jnp.asarray, TRUTH))
            starts = np.tile(np.asarray(theta), (self.replicates, 1))
            factors = np.exp(self.start_noise * draw.standard_normal((self.replicates, 3)))
            kernel, bias, log_tau = (parameter_names(TRUTH).index(name) for name in _GATE)
            starts[:, kernel] *= factors[:, 0]
            starts[:, bias] *= factors[:, 1]
            starts[:, log_tau] += np.log(factors[:, 2])
            shares = jnp.asarray(counts / float(size))
            fits = lattice_fits(
                jnp.asarray(starts), shares, jax.tree.map(jnp.asarray, TRUTH), jnp.asarray(_free()), model=_model(router),
                lattice=self.lattice, iterations=self.iterations, at_once=self.at_once,
            )  # fmt: skip
            found = jax.tree.map(np.asarray, jax.vmap(unravel)(fits.params))
            gate = found["gate"]
            return {
                "kernel": gate["kernel"][:, 0, 0],
                "bias": gate["bias"][:, 0],
                "temperature": np.exp(gate["log_temperature"]),
                "weight": found["weight"][:, 0],
                "shift": found["bias"][:, 0],
                "log_variance": found["log_variance"][:, 0],
                "slope": np.asarray(fits.slope),
                "curvature": np.asarray(fits.curvature),
            }

    def errors(self, raw: Raw) -> dict[str, Float[np.ndarray, "_"]]:
        """Of every replicate, NaN where its fit failed: of all parameters of the first expert, and of the ratios to the temperature."""
        failed = ~(raw["slope"] < _CONVERGED)
        truth = {
            "kernel": TRUTH["gate"]["kernel"][0, 0],
            "bias": TRUTH["gate"]["bias"][0],
            "temperature": np.exp(TRUTH["gate"]["log_temperature"]),
            "weight": TRUTH["weight"][0],
            "shift": TRUTH["bias"][0],
            "log_variance": TRUTH["log_variance"][0],
        }
        found = {name: np.abs(raw[name] - value) for name, value in truth.items()}
        for name in ("kernel", "bias"):
            ratio = truth[name] / truth["temperature"]
            found[f"{name} / temperature"] = np.abs(raw[name] / raw["temperature"] - ratio)
        return {name: np.where(failed, np.nan, errors) for name, errors in found.items()}

    def information(self, router: str) -> tuple[Float[np.ndarray, "_ _"], tuple[str, ...]]:
        """Fisher information of one observation at the truth, without the pinned gate, and the names of its rows."""
        model = _model(router)
        information = model.fisher_information(
            TRUTH, self.lattice.x, self.lattice.y, cell_probabilities(_model(router), TRUTH, self.lattice)
        )
        free, names = np.flatnonzero(_free()), parameter_names(TRUTH)
        return information[np.ix_(free, free)], tuple(names[index] for index in free)

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for router in self.routers:
            information, names = self.information(router)
            flat, least = flat_directions(information, names), least_eigenvalue(information)
            errors = self._errors(raw, router)
            gate = [_expected(router, name) for name in ("temperature", "kernel", "bias")]
            found += rate_findings([_expected(router, name) for name in ("weight", "shift", "log_variance")], errors)
            if not flat:
                found += rate_findings(gate, errors)
                continue
            zero = Expected(
                quantity=f"{router}: least eigenvalue of the Fisher information",
                value=0.0,
                tolerance=_FLAT,
                why="the differential equation between gate and temperature makes it singular",
            )
            found.append(judged(zero, abs(least), (abs(least), abs(least))))
            ray = " and ".join(str(one) for one in flat)
            reason = f"the likelihood is constant along the ray {ray}: no estimator finds it at any n."
            found += [untestable(one, reason) for one in gate]
            ratios = [_expected(router, f"{name} / temperature") for name in ("kernel", "bias")]
            found += rate_findings(ratios, errors)
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """The temperature's error, which stays where the start was for gates with a flat ray, and the ratio's, which does not."""
        curves: list[Curve] = []
        for router in self.routers:
            names = [f"{router}: temperature", f"{router}: kernel / temperature"]
            curves += error_curves(self._errors(raw, router), names, summary="median")
        return Chart(curves=tuple(curves))

    def _errors(self, raw: Mapping[str, Raw], router: str) -> dict[int, dict[str, Float[np.ndarray, "_"]]]:
        found = {n: self.errors(raw[f"{router}-{n}"]) for n in self.sizes}
        return {n: {f"{router}: {name}": values for name, values in errors.items()} for n, errors in found.items()}


def _model(router: str) -> GaussianMoE:
    return GaussianMoE(gate=Temperature(activation=router))  # type: ignore[arg-type]


_GATE = ("gate kernel 0 0", "gate bias 0", "gate log_temperature")


def _expected(router: str, name: str) -> Expected:
    """n^(-1/2), of the median: at the smallest size a temperature may run off."""
    return Expected(quantity=f"{router}: {name}", value=-0.5, tolerance=0.08, summary="median")


def _free() -> np.ndarray:
    """All but the gate of the second expert."""
    pinned = {"gate bias 1", "gate kernel 0 1"}
    return np.array([name not in pinned for name in parameter_names(TRUTH)])


EXAMPLES = (LearnedTemperature(),)
