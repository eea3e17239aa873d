"""Hash routing: a fixed random table says which expert a token id goes to. Nothing is learned.

Source: Roller et al. 2021, "Hash Layers For Large Sparse Models", section 3.1 (balanced hash).
Deviations: the table is balanced over ids, not over their frequency in a corpus; without ids the position in the group is
the id (images have no vocabulary).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import Routed, TokenChoice
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.limits import check_num_experts
from moejax.routing.statistics import choice_load


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashRouter(TokenChoiceCapacity):
    """Expert table[id mod table_size], with weight 1.

    table_size: entries of the table: the vocabulary size, or the number of tokens per group where positions are ids.
        Experts own equally many entries, to within one.
    capacity_factor, eval_capacity_factor, capacity_multiple, capacity_rounding: see `capacity.TokenChoiceCapacity`.

    Raises SpecError when table_size < num_experts (some expert would get nothing) or a factor is not positive.
    """

    plan_type: ClassVar[type] = TokenChoice

    num_experts: int
    table_size: int = 4096

    def __post_init__(self) -> None:
        check_num_experts(self.num_experts)
        self.check_capacity()
        if self.table_size < self.num_experts:
            raise SpecError(
                f"table_size={self.table_size} is less than num_experts={self.num_experts}: some experts would own no "
                f"entry. Use at least {self.num_experts}."
            )

    @property
    def causal(self) -> bool:
        """Always: one choice per token, served by position."""
        return True

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """No parameters; state {'table': int32 [table_size]}, drawn once and kept."""
        entries = jnp.arange(self.table_size, dtype=jnp.int32) % self.num_experts
        return {}, {"table": jax.random.permutation(key, entries)}

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """A TokenChoice with K = 1. Raises SpecError when the capacity rounds to zero."""
        groups, tokens = x.shape[:2]
        if token_ids is None:
            token_ids = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32)[None], (groups, tokens))
        expert = state["table"][token_ids % self.table_size][:, :, None]
        capacity = self.capacity(tokens, self.num_experts, 1, training=key is not None)
        weight = jnp.ones(expert.shape, jnp.float32)
        plan = TokenChoice(expert, weight, num_experts=self.num_experts, capacity=capacity)
        return Routed(plan, {}, {"load": choice_load(expert, self.num_experts)}, state)


EXAMPLES = (
    HashRouter(num_experts=3, table_size=64),
    HashRouter(num_experts=4, table_size=10, capacity_factor=1.0),
)
