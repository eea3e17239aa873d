"""Uniform routing: the baseline that knows nothing of the tokens and loads all experts equally.

Source: ours.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.plans import Routed, TokenChoice
from moejax.core.rng import named
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.limits import check_num_selected
from moejax.routing.statistics import choice_load


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformRouter(TokenChoiceCapacity):
    """Round robin: token s goes to experts s K ... s K + K - 1 (mod E), each with weight 1 / K.

    With a key, tokens and experts are shuffled first, for each group by itself. Every expert gets S K / E tokens, to
    within one.
    capacity_factor, eval_capacity_factor, capacity_multiple, capacity_rounding: see `capacity.TokenChoiceCapacity`.

    Raises SpecError for K > E or a capacity factor that is not positive.
    """

    plan_type: ClassVar[type] = TokenChoice
    by_position: ClassVar[bool] = True

    num_experts: int
    num_selected_experts: int = 1

    def __post_init__(self) -> None:
        check_num_selected(self.num_selected_experts, self.num_experts)
        self.check_capacity()

    @property
    def causal(self) -> bool:
        """Always: the plan does not depend on the tokens."""
        return True

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """Neither parameters nor state."""
        return {}, {}

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """A TokenChoice. Raises SpecError when the capacity rounds to zero. `token_ids` are not used."""
        groups, tokens = x.shape[:2]
        k = self.num_selected_experts
        in_turn = jnp.arange(tokens * k, dtype=jnp.int32).reshape(tokens, k) % self.num_experts
        if key is None:
            expert = jnp.broadcast_to(in_turn[None], (groups, tokens, k))
        else:
            expert = jax.vmap(self._shuffle, in_axes=(0, None))(jax.random.split(named(key, "noise"), groups), in_turn)
        weight = jnp.full(expert.shape, 1.0 / k, jnp.float32)
        capacity = self.capacity(tokens, self.num_experts, k, training=key is not None)
        plan = TokenChoice(expert, weight, num_experts=self.num_experts, capacity=capacity)
        return Routed(plan, {}, {"load": choice_load(expert, self.num_experts)}, state)

    def _shuffle(self, key: PRNGKeyArray, expert: Int[Array, "S K"]) -> Int[Array, "S K"]:
        label = jax.random.permutation(named(key, "experts"), self.num_experts).astype(jnp.int32)
        return label[jax.random.permutation(named(key, "tokens"), expert, axis=0)]


EXAMPLES = (
    UniformRouter(num_experts=3),
    UniformRouter(num_experts=4, num_selected_experts=2, capacity_factor=1.0),
)
