"""Maximum likelihood by Newton's method with safeguards: many problems at once, every one with the same number of steps.

Source: ours; the damping is Levenberg's (1944), the absolute eigenvalues as in Gill, Murray and Wright 1981, section 4.4.2.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Objective = Callable[[Float[Array, "_"]], tuple[Array, Array, Array]]
"""params [P] -> value [], gradient [P], Hessian [P P], of what is to be made large."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fit:
    """params [P]; value: reached; slope: largest entry of the gradient there, pinned ones apart; curvature: least eigenvalue of
    minus the Hessian there, pinned ones counted as 1 (near zero: a flat direction; negative: no maximum). All of leading batch axes where mapped over.
    """

    params: Float[Array, "... _"]
    value: Float[Array, "..."]
    slope: Float[Array, "..."]
    curvature: Float[Array, "..."]


def by_autodiff(value: Callable[[Float[Array, "_"]], Float[Array, ""]]) -> Objective:
    """Value, gradient and Hessian of a function, the Hessian forward over reverse."""

    def objective(params: Float[Array, "_"]) -> tuple[Array, Array, Array]:
        found, gradient = jax.value_and_grad(value)(params)
        return found, gradient, jax.hessian(value)(params)

    return objective


def maximise(
    objective: Objective,
    start: Float[Array, "_"],
    *,
    iterations: int,
    free: Bool[Array, "_"] | None = None,
    largest_step: float = 1.0,
) -> Fit:
    """From `start`, `iterations` steps; a step that would lower the value is not taken, and the next is damped more.

    free: which parameters move (None: all). largest_step: of any parameter in one step.
    """
    free = jnp.ones(start.shape, bool) if free is None else free

    def masked(params: Float[Array, "_"]) -> tuple[Array, Array, Array]:
        value, gradient, hessian = objective(params)
        both = free[:, None] & free[None, :]
        pinned = jnp.where(jnp.eye(len(start), dtype=bool), -1.0, 0.0).astype(hessian.dtype)
        return value, jnp.where(free, gradient, 0.0), jnp.where(both, hessian, pinned)

    def step(_: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        params, value, gradient, hessian, damping = carry
        # Eigenvectors of what is pinned are not quite alone.
        there = params + jnp.where(free, _direction(gradient, hessian, damping, largest_step), 0.0)
        new = masked(there)
        better = jnp.isfinite(new[0]) & (new[0] >= value)
        kept = [jnp.where(better, a, b) for a, b in zip((there, *new), (params, value, gradient, hessian), strict=True)]
        return (*kept, jnp.clip(damping * jnp.where(better, 0.2, 8.0), 1e-12, 1e12))

    carry = (start, *masked(start), jnp.asarray(1e-3, start.dtype))
    params, value, gradient, hessian, _ = jax.lax.fori_loop(0, iterations, step, carry)
    return Fit(params, value, jnp.max(jnp.abs(gradient)), jnp.min(jnp.linalg.eigvalsh(-hessian)))


def _direction(gradient: Array, hessian: Array, damping: Array, largest: float) -> Float[Array, "_"]:
    """Uphill along every eigenvector, also where the function is not concave."""
    curvatures, vectors = jnp.linalg.eigh(-hessian)
    scale = jnp.maximum(jnp.max(jnp.abs(curvatures)), 1e-300)
    inverse = 1.0 / (jnp.abs(curvatures) + damping * scale * 1e-3 + 1e-14 * scale)
    step = vectors @ (inverse * (vectors.T @ gradient))
    return step * jnp.minimum(1.0, largest / jnp.maximum(jnp.max(jnp.abs(step)), 1e-300))
