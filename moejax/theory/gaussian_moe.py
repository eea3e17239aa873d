"""Mixtures of linear experts with Gaussian noise under any gate: density, sampler, Fisher information.

p(y | x) = sum_i g_i(x) N(y | a_i x + b_i, nu_i), with g a softmax of the scores of a gate of `routing.gates`, over all experts or
over the K that are selected.
Source: Nguyen et al. 2023 ("Demystifying softmax gating"), equation 1; Nguyen et al. 2024 ("Top-K sparse softmax gating"),
    equations 1 and 2.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.routing.gates.contract import Gate
from moejax.routing.gates.linear import Linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMoE:
    """gate: scores of x, a method of `routing.gates`. num_selected_experts: K of a top-K gate (None: all).

    constant: the gate sees (x, 1) in place of x, so that there are directions among its inputs.
    select: what the K largest are taken of: 'logit' the scores, or 'inner' the inner products without the bias.
    Parameters: {'gate': of the gate with D = 1 (2 with `constant`), 'weight': a [E], 'bias': b [E], 'log_variance': log nu [E]}, float64.
    Raises SpecError for K below 1, and where 'inner' meets a gate without inner products or a constant input.
    """

    gate: Gate = dataclasses.field(default=Linear(bias=True), metadata={"room": "routing.gates"})
    num_selected_experts: int | None = None
    select: Literal["logit", "inner"] = "logit"
    constant: bool = False

    def __post_init__(self) -> None:
        if self.num_selected_experts is not None and self.num_selected_experts < 1:
            raise SpecError(f"num_selected_experts={self.num_selected_experts} must be at least 1 (None: all).")
        if self.select == "inner" and self.constant:
            raise SpecError("select='inner' ranks products with x alone; use select='logit' with constant=True.")
        if self.select == "inner" and not isinstance(self.gate, Linear):
            raise SpecError(
                f"select='inner' needs the gate 'linear', not {type(self.gate).__name__}; use select='logit'."
            )

    def log_gates(self, params: Any, x: Float[Array, "N"]) -> Float[Array, "N E"]:
        """Logarithms of the gates; -inf for experts that are not selected."""
        seen = jnp.stack([x, jnp.ones_like(x)], axis=1) if self.constant else x[:, None]
        scores = self.gate.logits(params["gate"], seen)
        if self.num_selected_experts is not None:
            ranked = x[:, None] * params["gate"]["kernel"] if self.select == "inner" else scores
            chosen = jax.lax.top_k(jax.lax.stop_gradient(ranked), self.num_selected_experts)[1]
            selected = jnp.any(
                chosen[:, :, None] == jnp.arange(scores.shape[1], dtype=chosen.dtype)[None, None], axis=1
            )
            scores = jnp.where(selected, scores, -jnp.inf)
        return jax.nn.log_softmax(scores)

    def log_density(self, params: Any, x: Float[Array, "N"], y: Float[Array, "N"]) -> Float[Array, "N"]:
        """Of y given x."""
        variance = params["log_variance"][None]
        off = y[:, None] - x[:, None] * params["weight"][None] - params["bias"][None]
        experts = -0.5 * (math.log(2 * math.pi) + variance + off * off * jnp.exp(-variance))
        return jax.scipy.special.logsumexp(self.log_gates(params, x) + experts, axis=1)

    def sample(self, params: Any, x: Float[np.ndarray, "N"], draw: np.random.Generator) -> Float[np.ndarray, "N"]:
        """Responses at the inputs."""
        with jax.enable_x64(True):
            gates = np.exp(np.asarray(self.log_gates(jax.tree.map(jnp.asarray, params), jnp.asarray(x))))
        expert = (draw.random((len(x), 1)) > np.cumsum(gates, axis=1)[:, :-1]).sum(axis=1)
        weight, bias, log_variance = (np.asarray(params[name])[expert] for name in ("weight", "bias", "log_variance"))
        return weight * x + bias + np.exp(log_variance / 2) * draw.standard_normal(len(x))

    def fisher_information(
        self, params: Any, x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"], probabilities: Float[np.ndarray, "N"]
    ) -> Float[np.ndarray, "_ _"]:
        """Of one observation [P P], over cells of x and y with these probabilities; P counts as `jax.flatten_util` orders them."""
        with jax.enable_x64(True):
            flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
            scores = jax.jacfwd(lambda theta: self.log_density(unravel(theta), jnp.asarray(x), jnp.asarray(y)))(flat)
            return np.asarray(jnp.einsum("np,n,nq->pq", scores, jnp.asarray(probabilities), scores))
