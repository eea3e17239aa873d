"""Mixtures of experts as regression functions, fitted by least squares, at the cost of a grid of inputs whatever the sample.

f(x) = sum_i g_i(x) h(a_i x + b_i), with g a softmax or sigmoids of the scores of the linear gate, h an activation or none. Inputs
take m fixed values, each equally often; then the squared error depends on the data through the mean response at every value alone,
and these means are normal, so that they are drawn directly for any number of examples.
Source: Nguyen, Ho and Rinaldo 2024 ("On least square estimation in softmax gating mixture of experts"), equations 1 to 3; Nguyen,
    Ho and Rinaldo 2024 ("Sigmoid gating is more sample efficient than softmax gating in mixture of experts"), equation 1.
Deviations: inputs lie on a grid, where the papers draw them uniformly.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.routing.gates.linear import Linear
from moejax.theory.newton import Fit, maximise
from moejax.theory.voronoi import GATE, MixingMeasure

EXPERTS: Mapping[str, Callable[[Array], Array]] = {
    "linear": lambda scores: scores,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}
GATES: Mapping[str, Callable[[Array], Array]] = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}
"""What the scores become: the weights that `routing.top_k` gives with `scores` of this name where all experts are selected."""

WIDTH = 4
BIAS, KERNEL, WEIGHT, SHIFT = range(WIDTH)
_GATE = Linear(bias=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeastSquaresMoE:
    """expert: the activation h; gating: how scores become weights. Packed parameters [4 E], expert by expert: gate bias, gate kernel,
    weight a, bias b. bound: of the size of every parameter of a fit, as theorems ask for (None: none).

    Raises SpecError for a bound that is not positive.
    """

    expert: Literal["linear", "relu", "sigmoid", "tanh", "gelu"] = "sigmoid"
    gating: Literal["softmax", "sigmoid"] = "softmax"
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.bound is not None and self.bound <= 0:
            raise SpecError(f"bound={self.bound} must be above 0 (None: no bound).")

    def regression(self, theta: Float[Array, "_"], x: Float[Array, "N"]) -> Float[Array, "N"]:
        """The mean response at the inputs."""
        rows = theta.reshape(-1, WIDTH)
        scores = _GATE.logits({"kernel": rows[:, KERNEL][None], "bias": rows[:, BIAS]}, x[:, None])
        experts = EXPERTS[self.expert](x[:, None] * rows[:, WEIGHT][None] + rows[:, SHIFT][None])
        return jnp.sum(GATES[self.gating](scores) * experts, axis=1)

    def fit(self, start: Float[Array, "_"], x: Float[Array, "N"], means: Float[Array, "N"], *, iterations: int) -> Fit:
        """The least mean squared distance to the mean responses from one start; value: minus half of it. Gates are not pinned."""

        # Within a bound the search is for what the bound's tanh is taken of, so that a parameter may come to rest at the bound.
        # The bends of f are left out of the Hessian (Gauss and Newton), as residuals are small: it is then never indefinite.
        def objective(free: Float[Array, "_"]) -> tuple[Array, Array, Array]:
            off = means - self.regression(self._bounded(free), x)
            slopes = jax.jacfwd(lambda free: self.regression(self._bounded(free), x))(free)
            return -0.5 * jnp.mean(off * off), slopes.T @ off / len(x), -slopes.T @ slopes / len(x)

        first = start if self.bound is None else self.bound * jnp.arctanh(start / self.bound)
        found = maximise(objective, first, iterations=iterations)
        return dataclasses.replace(found, params=self._bounded(found.params))

    def _bounded(self, free: Float[Array, "_"]) -> Float[Array, "_"]:
        return free if self.bound is None else self.bound * jnp.tanh(free / self.bound)

    def best_fits(
        self,
        starts: Float[np.ndarray, "_ _ _"],
        x: Float[np.ndarray, "N"],
        means: Float[np.ndarray, "_ N"],
        *,
        iterations: int,
    ) -> dict[str, np.ndarray]:
        """Of every replicate the best over its starts [R starts P], in float64: 'params' [R P], 'value', 'slope' and 'curvature' [R]."""
        with jax.enable_x64(True):
            fits = _all_fits(self, jnp.asarray(starts), jnp.asarray(x), jnp.asarray(means), iterations)
            values = np.asarray(fits.value)
            rows = np.arange(len(values)), np.argmax(np.where(np.isfinite(values), values, -np.inf), axis=1)
            return {name: np.asarray(getattr(fits, name))[rows] for name in ("params", "value", "slope", "curvature")}


def check_grid(num_inputs: int) -> None:
    """Raises SpecError for fewer values of x than three experts have parameters. Source: ours."""
    if num_inputs < 3 * WIDTH:
        raise SpecError(
            f"grid={num_inputs} has fewer values than three experts have parameters; use at least {3 * WIDTH}."
        )


def host_regression(
    model: LeastSquaresMoE, theta: Float[np.ndarray, "_"], x: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """`LeastSquaresMoE.regression` on the host, in float64."""
    with jax.enable_x64(True):
        return np.asarray(_regression(model, jnp.asarray(theta), jnp.asarray(x)))


_regression = jax.jit(LeastSquaresMoE.regression, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _all_fits(model: LeastSquaresMoE, starts: Any, x: Any, means: Any, iterations: int) -> Fit:
    """All replicates and starts side by side: [R starts ...]."""
    one = functools.partial(model.fit, iterations=iterations)
    return jax.vmap(jax.vmap(one, in_axes=(0, None, None)), in_axes=(0, None, 0))(starts, x, means)


def mean_responses(
    truth: Float[np.ndarray, "N"], num_examples: int, noise: float, replicates: int, draw: np.random.Generator
) -> Float[np.ndarray, "_ N"]:
    """Means of the responses at each of the N inputs, num_examples / N of them at each, with this standard deviation about the truth."""
    deviation = noise * np.sqrt(len(truth) / num_examples)
    return truth[None] + deviation * draw.standard_normal((replicates, len(truth)))


def split_starts(
    truth: Float[np.ndarray, "_"],
    widths: Float[np.ndarray, "_"],
    replicates: int,
    draw: np.random.Generator,
    *,
    extra: bool = True,
    shared_mass: bool = True,
) -> Float[np.ndarray, "_ _ _"]:
    """Starts [R, starts, P] near the truth: for each width and each expert, that expert twice (where `extra`), all moved by normal steps of
    that width. shared_mass: a softmax's twins share the mass of the one; a sigmoid's second twin begins nearly closed.
    """
    rows = truth.reshape(-1, WIDTH)
    starts = []
    for width in widths:
        for expert in range(len(rows)):
            begun = rows
            if extra:
                begun = np.concatenate([rows, rows[expert][None]])
                begun[[expert, -1] if shared_mass else [-1], BIAS] -= np.log(2) if shared_mass else 4.0
            starts.append(begun[None] + width * draw.standard_normal((replicates, *begun.shape)))
    return np.stack(starts, axis=1).reshape(replicates, len(starts), -1)


def measure(theta: Float[np.ndarray, "_"]) -> MixingMeasure:
    """The mixing measure of packed parameters."""
    rows = np.asarray(theta).reshape(-1, WIDTH)
    return MixingMeasure(
        rows[:, BIAS], {GATE: rows[:, KERNEL, None], "weight": rows[:, WEIGHT, None], "bias": rows[:, SHIFT, None]}
    )
