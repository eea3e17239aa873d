"""Plans: what a router decides, and all that a dispatcher knows.

A plan holds no token values. Its arrays say which token goes to which expert and with what weight; the static
fields say how large the buffers are. Integer choices carry no gradient; weights do.
"""

from typing import Annotated, Any

import flax.struct
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class TokenChoice:
    """Every token chooses up to K experts (top-k, hash, Sinkhorn, top-p ...).

    expert: chosen expert of each choice, in order of preference; -1 means "this choice is not made". The experts that
        one token chooses are different ones.
    weight: combine weight of each choice.
    priority: who is served first when an expert is full (higher first, ties by position); None: by position.
    capacity: slots per expert and group; None: dropless. First choices of all tokens are served before
        second choices, and so on.
    Source: ours; the service order is V-MoE's (Riquelme et al. 2021, Algorithms 1 and 2).
    """

    expert: Annotated[Any, Int[Array, "G S K"]]
    weight: Annotated[Any, Float[Array, "G S K"]]
    priority: Annotated[Any, Float[Array, "G S"] | None] = None
    num_experts: int = flax.struct.field(pytree_node=False, kw_only=True)
    capacity: int | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class ExpertChoice:
    """Every expert chooses C tokens of each group.

    token: index in [0, S) of the chosen token; a token may be chosen by many experts or by none.
    Source: Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing", section 3.2.
    """

    token: Annotated[Any, Int[Array, "G E C"]]
    weight: Annotated[Any, Float[Array, "G E C"]]

    @property
    def num_experts(self) -> int:
        return self.token.shape[1]


@flax.struct.dataclass
class SlotMix:
    """Slots are mixtures of tokens, outputs are mixtures of slots.

    dispatch: weight of token S in slot (E, C). combine: weight of slot (E, C) in the output of token S.
    Source: Puigcerver et al. 2024, "From Sparse to Soft Mixtures of Experts", section 2.1.
    """

    dispatch: Annotated[Any, Float[Array, "G S E C"]]
    combine: Annotated[Any, Float[Array, "G S E C"]]

    @property
    def num_experts(self) -> int:
        return self.dispatch.shape[2]


@flax.struct.dataclass
class Merge:
    """Parameters are mixed, not tokens: all tokens of a group pass one expert, the weighted mean of all.

    weight: rows sum to one for routers that average.
    Source: Muqeeth et al. 2023, "Soft Merging of Experts with Adaptive Routing" (SMEAR), section 3.
    """

    weight: Annotated[Any, Float[Array, "G E"]]

    @property
    def num_experts(self) -> int:
        return self.weight.shape[1]


Plan = TokenChoice | ExpertChoice | SlotMix | Merge


@flax.struct.dataclass
class Routed:
    """What `Router.route` returns.

    losses: scalars in float32, already multiplied by the weights of the router's spec; their sum is trained.
    metrics: float32 scalars, or one value per expert; no gradient flows from them.
    state: what the router keeps beside its parameters (balancing bias ...), as it is after this call.
    """

    plan: Plan
    losses: Annotated[Any, dict[str, Float[Array, ""]]]
    metrics: Annotated[Any, dict[str, Float[Array, "..."]]]
    state: Any
