"""Bi-level routing: a token first chooses a node, then an expert of that node.

Tokens of one node lie together, so that the two steps of an exchange in two levels (`all_to_all` with `group` the devices of a node)
follow the two decisions.
Source: He et al. 2022, "SMILE: Scaling Mixture-of-Experts with Efficient Bi-level Routing", section 3: gate = product of both softmax
    values, a balance loss per level.
Deviations: every node has its own kernel over its experts. The inner loss counts, in each node, the tokens that chose it; nodes
    enter by how many those are.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import Routed, TokenChoice
from moejax.core.rng import named
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.limits import check_not_negative, check_num_experts
from moejax.routing.logits import init_kernel, linear_logits
from moejax.routing.losses import balance_loss
from moejax.routing.statistics import choice_load, router_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiLevelRouter(TokenChoiceCapacity):
    """The best expert of the best node, weighed by both probabilities. Experts lie on nodes in their order, equally many on each.

    node_balance_loss_weight, balance_loss_weight: of Switch's loss over nodes, and over the experts within nodes.
    capacity_factor, eval_capacity_factor, capacity_multiple, capacity_rounding: see `capacity.TokenChoiceCapacity`.

    Raises SpecError when num_nodes does not divide num_experts, or a weight is negative.
    """

    plan_type: ClassVar[type] = TokenChoice

    num_experts: int
    num_nodes: int
    node_balance_loss_weight: float = 0.0
    balance_loss_weight: float = 0.0

    def __post_init__(self) -> None:
        check_num_experts(self.num_experts)
        self.check_capacity()
        check_not_negative(
            node_balance_loss_weight=self.node_balance_loss_weight, balance_loss_weight=self.balance_loss_weight
        )
        if self.num_nodes < 1 or self.num_experts % self.num_nodes:
            raise SpecError(f"num_nodes={self.num_nodes} must divide num_experts={self.num_experts}.")

    @property
    def causal(self) -> bool:
        """Always: one choice per token, served by position."""
        return True

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """{'node_kernel': [D nodes], 'kernel': [D E]} and no state."""
        node = init_kernel(named(key, "nodes"), dim, self.num_nodes)
        return {"node_kernel": node, "kernel": init_kernel(named(key, "experts"), dim, self.num_experts)}, {}

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """A TokenChoice with K = 1. Raises SpecError when the capacity rounds to zero. `token_ids` are not used."""
        node_probs = jax.nn.softmax(linear_logits(x, params["node_kernel"]))
        logits = linear_logits(x, params["kernel"])
        local = jax.nn.softmax(logits.reshape(*logits.shape[:2], self.num_nodes, -1))  # [G S nodes E/nodes]
        node = _best(node_probs)
        within = jnp.take_along_axis(local, node[..., None], axis=2)[:, :, 0]
        choice = _best(within)
        weight = jnp.take_along_axis(node_probs, node, -1) * jnp.take_along_axis(within, choice, -1)
        expert = node * local.shape[3] + choice
        capacity = self.capacity(x.shape[1], self.num_experts, 1, training=key is not None)
        plan = TokenChoice(expert, weight, num_experts=self.num_experts, capacity=capacity)
        probs = (node_probs[..., None] * local).reshape(logits.shape)
        metrics = router_metrics(probs, choice_load(expert, self.num_experts))
        return Routed(plan, self._losses(node_probs, within, node, choice), metrics, state)

    def _losses(
        self,
        node_probs: Float[Array, "G S _"],
        within: Float[Array, "G S _"],
        node: Int[Array, "G S 1"],
        choice: Int[Array, "G S 1"],
    ) -> dict[str, Float[Array, ""]]:
        losses = {}
        if self.node_balance_loss_weight:
            losses["node_balance"] = self.node_balance_loss_weight * balance_loss(node_probs, node)
        if self.balance_loss_weight:
            losses["balance"] = self.balance_loss_weight * self._inner_balance(within, node, choice)
        return losses

    def _inner_balance(
        self, within: Float[Array, "G S _"], node: Int[Array, "G S 1"], choice: Int[Array, "G S 1"]
    ) -> Float[Array, ""]:
        """Switch's loss over the experts of each node and the tokens that chose it; with one node that loss itself."""
        member = jax.nn.one_hot(node[..., 0], self.num_nodes, dtype=jnp.float32)  # [G S nodes]
        chosen = jax.nn.one_hot(choice[..., 0], within.shape[2], dtype=jnp.float32)
        tokens = jnp.maximum(member.sum(axis=1), 1.0)[:, :, None]
        fraction, mean = (jnp.einsum("GSH,GSE->GHE", member, values) / tokens for values in (chosen, within))
        each = within.shape[2] * jnp.sum(fraction * mean, axis=-1)
        return jnp.mean(jnp.sum(member.mean(axis=1) * each, axis=-1))


def _best(probs: Float[Array, "G S _"]) -> Int[Array, "G S 1"]:
    return jnp.argmax(jax.lax.stop_gradient(probs), axis=-1, keepdims=True).astype(jnp.int32)


EXAMPLES = (
    BiLevelRouter(num_experts=4, num_nodes=2, node_balance_loss_weight=0.01, balance_loss_weight=0.01),
    BiLevelRouter(num_experts=6, num_nodes=3, capacity_factor=1.0, eval_capacity_factor=None),
)
