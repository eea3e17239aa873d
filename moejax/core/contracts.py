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
    """Tokens -> plan. Moves no data. All its arithmetic is in float32 whatever the dtype of x.

    A router whose plan depends on a token's place in its group (and not only on its vector and id) says `by_position = True`,
    a class variable; it cannot decode token by token.
    """

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
    """A bank of experts. The law: `apply` equals the dense product with `materialise`.

    A bank may change the width that tokens travel in, by two more methods: `enter(params, x [... D]) -> [... R]` is called
    once per token before tokens are moved, `leave(params, y [... R]) -> [... D]` once after they are combined; what lies
    between is linear in the weights of a plan. `apply` then takes rows of width R; the law is that of all three in turn.
    """

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> Any:
        """Parameters whose arrays carry a leading axis E, but those that a leaf shares among all experts."""
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
        """Multiply-adds counted as two, matrix products only, for one token through one expert (forward).

        `enter` and `leave` are not in it, nor what leaves put together once per call (`flops_once` of a leaf).
        """
        ...


def enter(bank: Experts, params: Any, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Tokens at the width in which they travel to the experts of `bank`: by its `enter`, or as they are."""
    return bank.enter(params, x) if hasattr(bank, "enter") else x


def leave(bank: Experts, params: Any, y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Combined tokens back at full width: by the bank's `leave`, or as they are."""
    return bank.leave(params, y) if hasattr(bank, "leave") else y
