"""What a gate owes. Source: ours."""

from typing import Any, Protocol, runtime_checkable

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
