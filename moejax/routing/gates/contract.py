"""What a gate owes. Source: ours."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@runtime_checkable
class Gate(Protocol):
    """A frozen spec: parameters, and scores (logits of a softmax over the experts) of tokens."""

    def init(self, key: PRNGKeyArray, dim: int, num_experts: int) -> Any:
        """A dict of float32 arrays."""
        ...

    def logits(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """In float32, or float64 where x or parameters are."""
        ...


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32, or as it is in float64: gates never compute in less."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
