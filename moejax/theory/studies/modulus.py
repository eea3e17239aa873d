"""How little the density moves when two atoms of a cell part: the exponents of the over-specified rates, without any data.

One of the two atoms that share a true one is held at a distance t in one number; all others are where the divergence from
the truth is least. Its root is c t^r for small t, and an error in that number then falls as n^(-1/(2 r)).
Source: ours; r = r-bar(2) = 4 for the bias is Ho and Nguyen 2016, proposition 3.1, and Nguyen et al. 2023 ("Demystifying softmax
    gating"), lemma 1, which gives the same power to the gate's kernel and half of it to weight and variance.
Deviations: the first atom holds half the mass of its cell; a lattice replaces continuous inputs and responses.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.theory.divergences import between
from moejax.theory.findings import Chart, Curve, Expected, Finding, judged
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.lattice import Lattice
from moejax.theory.multi_start import last_gate
from moejax.theory.newton import Fit, maximise
from moejax.theory.polynomial_systems import r_bar
from moejax.theory.softmax_gaussian import BIAS, KERNEL, LOG_VARIANCE, SHIFT, WEIGHT, WIDTH, derivatives, pack, unpack
from moejax.theory.studies.contract import Raw
from moejax.theory.studies.over_specified_softmax import TRUTH

LATTICE = Lattice(num_inputs=8, responses=(-8.6, 8.6))
"""Wide enough for the largest variances that are tried."""
PLACES = {"bias": SHIFT, "gate kernel": KERNEL, "weight": WEIGHT, "log variance": LOG_VARIANCE}
_THINNEST = 0.5  # of the true variance, of any start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modulus:
    """distances: t, from the largest down; the exponent is that between the last two. seed: of nothing, there are no random numbers.

    Raises SpecError for fewer than 2 distances, or any that do not descend or are not positive.
    """

    distances: tuple[float, ...] = (0.6, 0.42, 0.3, 0.21, 0.15, 0.105, 0.0525)
    iterations: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        steps = np.diff(self.distances)
        if len(self.distances) < 2 or np.any(steps >= 0) or min(self.distances) <= 0:
            raise SpecError(f"distances={self.distances} must be at least 2, descend and be positive.")

    @property
    def claim(self) -> str:
        return (
            "Where two fitted atoms share a true one, the density sees their distance in bias and gate kernel to the power 4, in "
            "weight and variance to the power 2 (lemma 1 of the softmax paper)."
        )

    @property
    def protocol(self) -> str:
        return (
            "Population likelihood on a lattice, no samples: one atom of two with half the cell's mass held at distance t, the rest by "
            f"Newton's method from three starts on both sides; local slope of log sqrt(KL) between t = {self.distances[-2]} and "
            f"{self.distances[-1]}."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        """Exponents; no slopes over n, and without sampling error."""
        whole = float(r_bar(2))
        return (
            Expected(
                quantity="bias",
                value=whole,
                tolerance=0.5,
                published=whole,
                why="exponent of t in sqrt(KL): r-bar(2), hence n^(-1/8); it is reached only as t goes to 0",
            ),
            Expected(
                quantity="gate kernel",
                value=2.0,
                tolerance=0.1,
                published=whole,
                why="exponent of t in sqrt(KL): the system's order (2, 0) lets no shift of gates cancel, so n^(-1/4); the published "
                "power is a bound that holds and is not attained",
            ),
            Expected(
                quantity="weight",
                value=2.0,
                tolerance=0.15,
                published=whole / 2,
                why="exponent of t in sqrt(KL): n^(-1/4)",
            ),
            Expected(
                quantity="log variance",
                value=2.0,
                tolerance=0.15,
                published=whole / 2,
                why="exponent of t in sqrt(KL): n^(-1/4)",
            ),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(name.replace(" ", "-") for name in PLACES)

    def estimates(self, part: str) -> Raw:
        """For every distance in turn, the least over starts and sides: 'kl', 'hellinger', 'slope' (of the likelihood there) and 'params'."""
        place = PLACES[part.replace("-", " ")]
        starts, free = self._starts(place)
        kept: dict[str, list[np.ndarray]] = {name: [] for name in ("kl", "hellinger", "slope", "params")}
        with jax.enable_x64(True):
            fits = _fitted(jnp.asarray(starts), jnp.asarray(free), self.iterations)
            best = np.nanargmax(np.asarray(fits.value), axis=1)
            for index, chosen in enumerate(best):
                params = fits.params[index, int(chosen)]
                found = between(GaussianMoE(), TRUTH, unpack(params), LATTICE)
                for name, value in (found | {"slope": fits.slope[index, int(chosen)], "params": params}).items():
                    kept[name].append(np.asarray(value))
        return {name: np.stack(values) for name, values in kept.items()}

    def exponents(self, raw: Raw, name: str = "kl") -> Float[np.ndarray, "_"]:
        """Local slopes over log t of the distance: sqrt(KL), or the Hellinger distance."""
        root = 0.5 if name == "kl" else 1.0
        return np.diff(root * np.log(raw[name])) / np.diff(np.log(self.distances))

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        """The interval is the span of the exponents of sqrt(KL) and of the Hellinger distance: nothing is sampled."""
        found = []
        for one in self.expected:
            own = raw[one.quantity.replace(" ", "-")]
            last, other = (float(self.exponents(own, name)[-1]) for name in ("kl", "hellinger"))
            found.append(judged(one, last, (min(last, other), max(last, other))))
        return tuple(found)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        curves = tuple(
            Curve(label=part.replace("-", " "), x=np.array(self.distances), y=np.sqrt(own["kl"]))
            for part, own in raw.items()
        )
        return Chart(curves=curves, x_label="distance t of one atom", y_label="sqrt(KL)")

    def _starts(self, place: int) -> tuple[Float[np.ndarray, "_ _ _"], np.ndarray]:
        """Packed starts [distances, starts, 15] and which numbers move [15]."""
        true = pack(TRUTH).reshape(-1, WIDTH)
        all_starts = []
        for distance in self.distances:
            twins = ("true", "opposite", "thinner")
            own = [_parted(true, place, side * distance, twin) for side in (1, -1) for twin in twins]
            all_starts.append(np.stack(own))
        free = last_gate(3 * WIDTH)
        free[[BIAS, place]] = False
        return np.stack(all_starts), free


def _parted(true: Float[np.ndarray, "_ _"], place: int, shift: float, twin: str) -> Float[np.ndarray, "_"]:
    """The first atom shifted in one number; its twin where the truth is, or as far the other way, or so with both variances less."""
    pair = np.stack([true[0], true[0]])
    pair[:, BIAS] += np.log(0.5)
    if twin == "thinner":
        pair[:, LOG_VARIANCE] += np.log(max(1 - shift**2 / np.exp(true[0, LOG_VARIANCE]), _THINNEST))
    pair[:, place] = true[0, place] + np.array([shift, 0.0 if twin == "true" else -shift])
    return np.concatenate([pair, true[1:]]).reshape(-1)


@functools.partial(jax.jit, static_argnums=2)
def _fitted(starts: Float[Array, "_ _ _"], free: Array, iterations: int) -> Fit:
    x, y = jnp.asarray(LATTICE.x), jnp.asarray(LATTICE.y)
    truth = GaussianMoE().log_density(jax.tree.map(jnp.asarray, TRUTH), x, y)
    probability = jnp.exp(truth) * (LATTICE.step / LATTICE.num_inputs)

    def one(start: Float[Array, "_"]) -> Fit:
        return maximise(lambda theta: derivatives(theta, x, y, probability), start, iterations=iterations, free=free)

    return jax.lax.map(jax.vmap(one), starts)


EXAMPLES = (Modulus(),)
