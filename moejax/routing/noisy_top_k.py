"""Noisy top-k gating with learned noise: the sparsely-gated mixture of experts.

Source: Shazeer et al. 2017, "Outrageously Large Neural Networks", section 2.1 (equations 3 to 5), section 4 and appendix A.
Deviations: groups of tokens are balanced each by itself; the paper drops nothing, capacity_factor does.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.plans import Routed, TokenChoice
from moejax.core.rng import named
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.limits import check_not_negative, check_num_selected
from moejax.routing.logits import linear_logits
from moejax.routing.losses import importance_loss, load_loss, load_probability
from moejax.routing.statistics import choice_load, router_metrics

# A standard deviation of exactly zero (softplus underflows) would make the load 0 / 0.
SMALLEST_STD = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyTopKRouter(TokenChoiceCapacity):
    """H = x W_g + normal * softplus(x W_n); the gates are a softmax over the K largest of H. No noise without a key.

    importance_loss_weight: on the CV^2 of summed gates.
    load_loss_weight: on the CV^2 of the smooth load, in training only (it needs noise).
    capacity_factor, eval_capacity_factor, capacity_multiple, capacity_rounding: see `capacity.TokenChoiceCapacity`.

    Raises SpecError for K > E or a capacity factor that is not positive.
    """

    plan_type: ClassVar[type] = TokenChoice

    num_experts: int
    num_selected_experts: int = 2
    importance_loss_weight: float = 0.1
    load_loss_weight: float = 0.1

    def __post_init__(self) -> None:
        check_num_selected(self.num_selected_experts, self.num_experts)
        self.check_capacity()
        check_not_negative(importance_loss_weight=self.importance_loss_weight, load_loss_weight=self.load_loss_weight)

    @property
    def causal(self) -> bool:
        """Dropless, or first choices served by position: no token is displaced by a later one."""
        return self.always_dropless or self.num_selected_experts == 1

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """{'kernel': [D E], 'noise_kernel': [D E]}, all zeros (appendix A: start balanced by noise), and no state."""
        zeros = jnp.zeros((dim, self.num_experts), jnp.float32)
        return {"kernel": zeros, "noise_kernel": zeros}, {}

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
        clean = linear_logits(x, params["kernel"])
        noisy, std = clean, None
        if key is not None:
            std = jnp.maximum(jax.nn.softplus(linear_logits(x, params["noise_kernel"])), SMALLEST_STD)
            noisy = clean + std * jax.random.normal(named(key, "noise"), clean.shape, clean.dtype)
        expert = jax.lax.top_k(jax.lax.stop_gradient(noisy), self.num_selected_experts)[1]
        weight = jax.nn.softmax(jnp.take_along_axis(noisy, expert, axis=-1))
        capacity = self.capacity(x.shape[1], self.num_experts, self.num_selected_experts, training=key is not None)
        plan = TokenChoice(expert, weight, num_experts=self.num_experts, capacity=capacity)
        metrics = router_metrics(jax.nn.softmax(noisy), choice_load(expert, self.num_experts))
        return Routed(plan, self._losses(clean, noisy, std, expert, weight), metrics, state)

    def _losses(
        self,
        clean: Float[Array, "G S E"],
        noisy: Float[Array, "G S E"],
        std: Float[Array, "G S E"] | None,
        expert: Int[Array, "G S K"],
        weight: Float[Array, "G S K"],
    ) -> dict[str, Float[Array, ""]]:
        losses = {}
        if self.importance_loss_weight:
            chosen = jax.nn.one_hot(expert, self.num_experts, dtype=weight.dtype)
            gates = jnp.sum(weight[..., None] * chosen, axis=2)
            losses["importance"] = self.importance_loss_weight * importance_loss(gates)
        if self.load_loss_weight and std is not None:
            probability = load_probability(clean, noisy, std, self.num_selected_experts, exclude_self=True)
            losses["load"] = self.load_loss_weight * load_loss(probability)
        return losses


EXAMPLES = (
    NoisyTopKRouter(num_experts=4),
    NoisyTopKRouter(num_experts=3, num_selected_experts=1, capacity_factor=1.25, eval_capacity_factor=None),
)
