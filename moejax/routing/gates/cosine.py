"""Scores are cosines between token and expert, divided by a temperature that is learned.

Source: Chi et al. 2022 ("On the representation collapse of sparse mixture of experts", X-MoE), section 3.2; `perturbation`:
    Nguyen et al. 2024 ("Statistical advantages of perturbing cosine router in mixture of experts"), equation 6.
Deviations: the dimension of X-MoE is not reduced before the cosine; the logarithm of the temperature is the parameter.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.routing.logits import init_kernel, linear_logits, wide

_SMALLEST = 1e-20  # squared norm below which a vector has no direction: its cosines are 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """temperature: at the beginning. perturbation: added to the norms of both vectors. Raises SpecError for negative ones."""

    temperature: float = 0.1
    perturbation: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.perturbation < 0:
            raise SpecError(
                f"gate.temperature={self.temperature} must be above 0, gate.perturbation={self.perturbation} not negative."
            )

    def init(self, key: PRNGKeyArray, dim: int, num_experts: int) -> Any:
        """{'kernel': [D E], 'log_temperature': []}."""
        kernel = init_kernel(key, dim, num_experts)
        return {"kernel": kernel, "log_temperature": jnp.log(jnp.float32(self.temperature))}

    def logits(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """<x, w> / ((|x| + perturbation) (|w| + perturbation) temperature)."""
        x, kernel = wide(x), wide(params["kernel"])
        scores = linear_logits(self._scaled(x, -1), self._scaled(kernel, 0))
        return scores / jnp.exp(params["log_temperature"])

    def _scaled(self, vectors: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
        # The root is taken of what is not zero, as its gradient at zero is infinite.
        squares = jnp.sum(vectors * vectors, axis=axis, keepdims=True)
        norm = jnp.sqrt(jnp.maximum(squares, _SMALLEST))
        return vectors / (norm + self.perturbation)


EXAMPLES = (Cosine(), Cosine(temperature=0.5, perturbation=0.01))
