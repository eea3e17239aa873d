"""Sparse mixtures of linear experts in many dimensions: EM with an l1 penalty, whose M-steps are proximal gradient steps.

Minimises -1/n log-likelihood + lambda (sum of |gate kernels| + sum of |expert kernels|); biases and variances are not penalised.
Every iteration takes the responsibilities, then one accelerated proximal step of all kernels, each scaled by its own curvature bound,
and the variances in closed form; the acceleration starts again where it would turn back.
Source: Chamroukhi and Huynh 2019 ("Regularized maximum likelihood estimation and feature selection in mixtures-of-experts models"),
    section 3, for the penalty and the proximal M-steps; Beck and Teboulle 2009 for the acceleration; O'Donoghue and Candes 2015 for
    starting it again.
Deviations: one proximal gradient step an iteration where the source takes Newton steps until convergence; no quadratic penalty.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProximalEM:
    """num_experts: fitted. Parameters: {'gate': {'kernel': [D E], 'bias': [E]}, 'kernel': [D E], 'bias': [E], 'log_variance': [E]}; the
    gate of the last expert is pinned at zero. smallest_variance: below which none falls; without one the likelihood has no maximum
    where there are as many dimensions as examples.

    Raises SpecError for fewer than 2 experts, no iteration, or a smallest variance that is not positive.
    """

    num_experts: int = 2
    iterations: int = 300
    smallest_variance: float = 0.25

    def __post_init__(self) -> None:
        if self.num_experts < 2 or self.iterations < 1 or self.smallest_variance <= 0:
            raise SpecError(
                f"num_experts={self.num_experts} must be at least 2, iterations={self.iterations} at least 1 and "
                f"smallest_variance={self.smallest_variance} above 0."
            )

    def fit(
        self, params: Any, x: Float[Array, "B D"], y: Float[Array, "B"], penalty: Float[Array, ""]
    ) -> tuple[Any, Float[Array, ""]]:
        """The parameters after the iterations from these, and how far the last step went, the largest entry of all kernels."""
        steepest = _largest_curvature(x)

        def step(carry: tuple[Any, Any, Array], _: None) -> tuple[Any, Array]:
            params, ahead, momentum = carry
            new = self._step(ahead, x, y, penalty, steepest)
            back = sum(
                jnp.vdot(b - n, n - p)
                for b, n, p in zip(jax.tree.leaves(ahead), jax.tree.leaves(new), jax.tree.leaves(params), strict=True)
            )
            momentum = jnp.where(back > 0, 1.0, momentum)
            grown = 0.5 * (1 + jnp.sqrt(1 + 4 * momentum * momentum))
            share = (momentum - 1) / grown
            moved = jax.tree.map(lambda n, p: n + share * (n - p), new, params)
            # Variances are not carried on: they are exact for the kernels they were computed with.
            moved["log_variance"] = new["log_variance"]
            far = jnp.max(jnp.abs(new["kernel"] - params["kernel"]))
            return (new, moved, grown), jnp.maximum(
                far, jnp.max(jnp.abs(new["gate"]["kernel"] - params["gate"]["kernel"]))
            )

        first = (params, params, jnp.asarray(1.0, x.dtype))
        (params, _, _), far = jax.lax.scan(step, first, length=self.iterations)
        return params, far[-1]

    def _step(self, params: Any, x: Array, y: Array, penalty: Array, steepest: Array) -> Any:
        """Responsibilities, then one proximal gradient step of gates and experts, and the variances of the new experts."""
        gates, owners, off = self._owners(params, x, y)
        num_examples = x.shape[0]
        inverse = jnp.exp(-params["log_variance"])[None]
        # The gate's curvature is at most half of the inputs', an expert's at most theirs over its variance.
        gate_slope = (gates - owners).at[:, -1].set(0.0) / num_examples
        gate_step = 2 / steepest
        expert_slope = -owners * off * inverse / num_examples
        expert_step = 1 / (steepest * inverse)
        kernel = _shrunk(params["kernel"] - expert_step * (x.T @ expert_slope), expert_step * penalty)
        bias = params["bias"] - expert_step[0] * jnp.sum(expert_slope, axis=0)
        new_off = y[:, None] - x @ kernel - bias[None]
        variance = jnp.sum(owners * new_off**2, axis=0) / jnp.maximum(jnp.sum(owners, axis=0), 1e-6)
        gate = params["gate"]
        return {
            "gate": {
                "kernel": _shrunk(gate["kernel"] - gate_step * (x.T @ gate_slope), gate_step * penalty),
                "bias": gate["bias"] - gate_step * jnp.sum(gate_slope, axis=0),
            },
            "kernel": kernel,
            "bias": bias,
            "log_variance": jnp.log(jnp.maximum(variance, self.smallest_variance)),
        }

    def _owners(self, params: Any, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Gates, responsibilities and residuals [B E]."""
        scores = gate_scores(params, x)
        off = y[:, None] - x @ params["kernel"] - params["bias"][None]
        return jax.nn.softmax(scores), jax.nn.softmax(scores + _log_normal(off, params["log_variance"])), off


def gate_scores(params: Any, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
    """Of the softmax gate."""
    return x @ params["gate"]["kernel"] + params["gate"]["bias"][None]


def log_density(params: Any, x: Float[Array, "B D"], y: Float[Array, "B"]) -> Float[Array, "B"]:
    """Of y given x."""
    off = y[:, None] - x @ params["kernel"] - params["bias"][None]
    joint = jax.nn.log_softmax(gate_scores(params, x)) + _log_normal(off, params["log_variance"])
    return jax.nn.logsumexp(joint, axis=1)


def penalised(params: Any, x: Float[Array, "B D"], y: Float[Array, "B"], penalty: Float[Array, ""]) -> Float[Array, ""]:
    """What is minimised."""
    size = jnp.sum(jnp.abs(params["kernel"])) + jnp.sum(jnp.abs(params["gate"]["kernel"]))
    return penalty * size - jnp.mean(log_density(params, x, y))


def divergence(true: Any, fitted: Any, x: Float[Array, "B D"], *, nodes: int = 12) -> Float[Array, ""]:
    """Mean over inputs of the Kullback-Leibler divergence of the fitted density of y from the true one, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    gates = jax.nn.softmax(gate_scores(true, x))
    mean, deviation = x @ true["kernel"] + true["bias"][None], jnp.exp(0.5 * true["log_variance"])[None]

    def gap(point: Array) -> Array:
        y = mean + point * deviation
        gaps = jax.vmap(lambda y: log_density(true, x, y) - log_density(fitted, x, y), in_axes=1, out_axes=1)(y)
        return jnp.mean(jnp.sum(gates * gaps, axis=1))

    gaps = jax.lax.map(gap, jnp.asarray(points, x.dtype))
    return jnp.sum(gaps * jnp.asarray(weights / weights.sum(), x.dtype))


def _log_normal(off: Float[Array, "B E"], log_variance: Float[Array, "E"]) -> Float[Array, "B E"]:
    variance = log_variance[None]
    return -0.5 * (math.log(2 * math.pi) + variance + off * off * jnp.exp(-variance))


def _shrunk(values: Float[Array, "_ _"], by: Float[Array, "..."]) -> Float[Array, "_ _"]:
    """The proximal map of |.|."""
    return jnp.sign(values) * jnp.maximum(jnp.abs(values) - by, 0.0)


def _largest_curvature(x: Float[Array, "B D"]) -> Float[Array, ""]:
    """A little above the largest eigenvalue of the second moments of (x, 1), by power iteration."""
    rows = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)

    def again(_: Any, vector: Array) -> Array:
        vector = rows.T @ (rows @ vector)
        return vector / jnp.linalg.norm(vector)

    vector = jax.lax.fori_loop(0, 30, again, jnp.full((rows.shape[1],), 1 / np.sqrt(rows.shape[1]), x.dtype))
    return 1.1 * jnp.sum((rows @ vector) ** 2) / x.shape[0]
