"""The contracts between rooms, as protocols. Specs are frozen dataclasses: hashable, static, without arrays.

**A key means training.** Where a function takes `key=None`, no key means deterministic evaluation; a key means
training: noise and dropout are drawn from it, the training capacity factor holds, and router state moves.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.layouts import Layout
from moejax.core.plans import Routed


@runtime_checkable
class Router(Protocol):
    """Tokens -> plan. Moves no data. All its arithmetic is in float32 whatever the dtype of x."""

    num_experts: int
    plan_type: ClassVar[type]  # the plan that `route` returns, known before anything is traced

    @property
    def causal(self) -> bool:
        """True when no token's plan depends on later tokens of its group, so that a decoder may use it."""
        ...

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """Parameters and state (both nested dicts, either may be empty) for tokens of width `dim`."""
        ...

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """The plan for the tokens of each group, its losses and metrics, and the state after it."""
        ...


@runtime_checkable
class Experts(Protocol):
    """A bank of experts. The law: `apply` equals the dense product with `materialise`."""

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> Any:
        """Parameters whose leaves carry a leading axis E."""
        ...

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """The same layout back, each row transformed by its expert."""
        ...

    def materialise(self, params: Any) -> dict[str, Array]:
        """Dense weights [E ...], whatever the leaves are."""
        ...

    def num_params(self, num_experts: int, dim: int) -> int:
        """Parameters of the whole bank, by formula."""
        ...

    def flops_per_token(self, dim: int) -> int:
        """Multiply-adds counted as two, matrix products only, for one token through one expert (forward)."""
        ...
