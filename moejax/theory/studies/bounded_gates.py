"""Gates by distance and by angle: a Laplace gate is found at n^(-1/2), a cosine gate but for its lengths, a perturbed one altogether.

A cosine does not know how long its vectors are: no estimator finds the length of a kernel at any n, so that a claimed 'slower than any
polynomial' is no rate but the absence of one, along a ray that has a name. Their direction falls at n^(-1/2) all the same. A number added to
the lengths breaks the ray; a temperature that is learned beside it brings one back.
Source: Han et al. 2024 ("FuseMoE"), theorem 1 and appendix I for the Laplace gate; Nguyen et al. 2024 ("Statistical advantages of perturbing
    cosine router in mixture of experts"), sections 2 and 3 for the cosine.
Deviations: Gaussian experts with exact likelihood on a lattice, where the cosine's theorems are of least squares; truth, starts and sizes
    are ours; the cosine has no bias, as our router has none; its inputs are (x, 1), its last kernel is pinned, since a softmax does not see
    what all scores share. The ray of the perturbed gate with a learned temperature is our finding.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from moejax.routing.gates.cosine import Cosine
from moejax.routing.gates.laplace import Laplace
from moejax.theory.findings import Chart, Curve, Expected, Finding, judged, untestable
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.identifiability import FlatDirection, flat_directions, least_eigenvalue, parameter_names
from moejax.theory.lattice import Lattice
from moejax.theory.lattice_fit import cell_probabilities, lattice_fits
from moejax.theory.rates import check_protocol, error_curves, rate_findings
from moejax.theory.studies.contract import Raw

CASES = ("laplace", "cosine", "perturbed cosine")
MODELS = {
    "laplace": GaussianMoE(gate=Laplace()),
    "cosine": GaussianMoE(gate=Cosine(), constant=True),
    "perturbed cosine": GaussianMoE(gate=Cosine(perturbation=1.0), constant=True),
}
_EXPERTS: dict[str, Any] = {
    "weight": np.array([1.0, -1.0]),
    "bias": np.array([2.0, -2.0]),
    "log_variance": np.log([0.25, 0.36]),
}
_PLACE = 3 * 6 / 23  # halfway between two inputs of the lattice, -3 + 6 k / 23: a distance bends at zero
_ANGLE = {"kernel": np.array([[1.5, -1.0], [0.5, 0.8]]), "log_temperature": np.log(0.2)}
_FLAT = 1e-12  # an eigenvalue below it is rounding
_CONVERGED = 1e-6  # largest entry of the gradient of the log-likelihood per observation above which a fit has failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundedGates:
    """Starts: the truth, its free gate parameters moved by start_noise * N(0, 1)."""

    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    replicates: int = 24
    seed: int = 0
    iterations: int = 25
    start_noise: float = 0.1
    at_once: int = 8
    lattice: Lattice = Lattice(inputs=(-3.0, 3.0), step=0.4, responses=(-9.6, 9.6))

    def __post_init__(self) -> None:
        check_protocol(self.sizes, self.replicates, 100)

    @property
    def claim(self) -> str:
        return (
            "With the right number of experts a Laplace gate is estimated at n^(-1/2); a cosine gate more slowly than at any polynomial "
            "rate, and at n^(-1/2) once its norms are perturbed."
        )

    @property
    def protocol(self) -> str:
        return (
            f"Two experts fitted to two on a lattice, by Newton's method, {self.replicates} replicates, n = {min(self.sizes):,} to "
            f"{max(self.sizes):,}; the Fisher information tells what has no rate."
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"{case.replace(' ', '_')}-{n}" for case in CASES for n in self.sizes)

    def estimates(self, part: str) -> Raw:
        """'params' [R P], as `ravel_pytree` packs them, and 'slope' and 'curvature' [R] of the likelihood per observation."""
        case, _, size = part.replace("_", " ").partition("-")
        draw = np.random.default_rng((self.seed, CASES.index(case), int(size)))
        cells = cell_probabilities(MODELS[case], truth(case), self.lattice)
        counts = np.stack([self.lattice.counts(cells, int(size), draw) for _ in range(self.replicates)])
        gate = np.array([name.startswith("gate") for name in parameter_names(truth(case))]) & free(case)
        with jax.enable_x64(True):
            like = jax.tree.map(jnp.asarray, truth(case))
            begun = np.asarray(ravel_pytree(like)[0])[None]
            starts = begun + self.start_noise * draw.standard_normal((self.replicates, gate.size)) * gate
            fits = lattice_fits(
                jnp.asarray(starts), jnp.asarray(counts / float(size)), like, jnp.asarray(free(case)), model=MODELS[case],
                lattice=self.lattice, iterations=self.iterations, at_once=self.at_once,
            )  # fmt: skip
            return {name: np.asarray(getattr(fits, name)) for name in ("params", "slope", "curvature")}

    def errors(self, case: str, raw: Raw) -> dict[str, Float[np.ndarray, "R"]]:
        """Of every replicate, NaN where its fit failed: the largest over both experts of every kind of parameter, and of a Laplace gate
        'D1', of a cosine 'direction', the angle of the first kernel in radians.
        """
        names, true = (
            parameter_names(truth(case)),
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(truth(case))]),
        )
        found, off = {}, np.abs(raw["params"] - true[None])
        for kind in ("gate kernel", "gate bias", "weight", "bias", "log_variance"):
            own = [place for place, name in enumerate(names) if name.startswith(kind)]
            if own:
                found[kind] = off[:, own].max(axis=1)
        if case == "laplace":
            found["D1"] = _loss(raw["params"], names)
        else:
            places = [names.index(f"gate kernel {row} 0") for row in (0, 1)]
            angles = np.arctan2(raw["params"][:, places[1]], raw["params"][:, places[0]])
            found["direction"] = np.abs(angles - np.arctan2(true[places[1]], true[places[0]]))
        return {name: np.where(raw["slope"] < _CONVERGED, values, np.nan) for name, values in found.items()}

    def rays(self, case: str, *, temperature: bool = False) -> tuple[tuple[FlatDirection, ...], float]:
        """Flat directions of the Fisher information at the truth, and its least eigenvalue. temperature: it is learned, too."""
        kept, names = np.flatnonzero(free(case, temperature=temperature)), parameter_names(truth(case))
        cells = cell_probabilities(MODELS[case], truth(case), self.lattice)
        information = MODELS[case].fisher_information(truth(case), self.lattice.x, self.lattice.y, cells)
        own = information[np.ix_(kept, kept)]
        return flat_directions(own, tuple(names[place] for place in kept)), least_eigenvalue(own)

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found: list[Finding] = []
        for case, kinds in _KINDS.items():
            found += rate_findings([_expected(case, kind) for kind in kinds], self._errors(raw, case))
        flat, least = self.rays("cosine")
        zero = Expected(
            quantity="cosine: least eigenvalue of the Fisher information", value=0.0, tolerance=_FLAT,
            why="a cosine does not change with the length of a kernel",
        )  # fmt: skip
        found.append(judged(zero, abs(least), (abs(least), abs(least))))
        found.append(_lost(_expected("cosine", "gate kernel"), flat))
        learned = self.rays("perturbed cosine", temperature=True)[0]
        found.append(_lost(_expected("perturbed cosine, learned temperature", "temperature"), learned))
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """What the gate does to inputs; a cosine's kernel stays as far off as it starts."""
        curves: list[Curve] = []
        for case, kinds in _CURVES.items():
            curves += error_curves(self._errors(raw, case), [f"{case}: {kind}" for kind in kinds], summary="median")
        return Chart(curves=tuple(curves))

    def _errors(self, raw: Mapping[str, Raw], case: str) -> dict[int, dict[str, Float[np.ndarray, "R"]]]:
        found = {n: self.errors(case, raw[f"{case.replace(' ', '_')}-{n}"]) for n in self.sizes}
        return {n: {f"{case}: {name}": values for name, values in errors.items()} for n, errors in found.items()}


_SHARED = ("weight", "bias", "log_variance")
_KINDS = {
    "laplace": ("D1", "gate kernel", "gate bias", *_SHARED),
    "cosine": ("direction", *_SHARED),
    "perturbed cosine": ("gate kernel", *_SHARED),
}
_CURVES = {
    "laplace": ("D1", "gate kernel"),
    "cosine": ("gate kernel", "direction"),
    "perturbed cosine": ("gate kernel",),
}


def truth(case: str) -> dict[str, Any]:
    """Parameters of a case; what `free` leaves out stays there."""
    if case == "laplace":
        return {"gate": {"bias": np.array([0.3, 0.0]), "kernel": np.array([[_PLACE, -_PLACE]])}, **_EXPERTS}
    return {"gate": _ANGLE, **_EXPERTS}


def free(case: str, *, temperature: bool = False) -> Any:
    """Which packed parameters are estimated: not the last bias of a Laplace gate, nor a cosine's last kernel and, unless `temperature`, its
    temperature.
    """
    pinned = {"gate bias 1"} if case == "laplace" else {"gate kernel 0 1", "gate kernel 1 1"}
    if not temperature:
        pinned |= {"gate log_temperature"}
    return np.array([name not in pinned for name in parameter_names(truth(case))])


def _loss(params: Float[np.ndarray, "R _"], names: Any) -> Float[np.ndarray, "R"]:
    """D1: errors of the atoms weighted by the exponentials of their biases, and errors of these; every atom is its own cell."""
    true = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(truth("laplace"))])
    total = np.zeros(len(params))
    for atom in (0, 1):
        columns = [names.index(f"{kind} {atom}") for kind in ("gate kernel 0", "weight", "bias", "log_variance")]
        one, target = params[:, columns], true[columns]
        one, target = (np.concatenate([v[..., :3], np.exp(v[..., 3:])], axis=-1) for v in (one, target))
        mass = np.exp(params[:, names.index(f"gate bias {atom}")])
        wanted = np.exp(true[names.index(f"gate bias {atom}")])
        total += mass * np.abs(one - target).sum(axis=1) + np.abs(mass - wanted)
    return total


def _expected(case: str, kind: str) -> Expected:
    """n^(-1/2), of the median; the published slope is of FuseMoE's appendix I, for two experts."""
    published = -0.49 if (case, kind) == ("laplace", "D1") else None
    return Expected(quantity=f"{case}: {kind}", value=-0.5, tolerance=0.08, summary="median", published=published)


def _lost(expected: Expected, rays: tuple[FlatDirection, ...]) -> Finding:
    named = " and ".join(map(str, rays))
    return untestable(expected, f"the likelihood is constant along the ray {named}: no estimator finds it at any n.")


EXAMPLES = (BoundedGates(),)
