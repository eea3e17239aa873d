"""Sinkhorn token choice: every token goes to its K best experts of a plan that loads all experts equally.

Source: Liu et al. 2024, "Routers in Vision Mixture of Experts: An Empirical Study" (Sinkhorn token choice); Clark et al.
2022, "Unified Scaling Laws for Routed Language Models" (S-BASE).
Deviations: the same plan is used in training and evaluation (S-BASE evaluates by the largest logit).
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import Routed, TokenChoice
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.limits import check_not_negative, check_num_selected
from moejax.routing.logits import add_noise, init_kernel, linear_logits
from moejax.routing.statistics import choice_load, router_metrics
from moejax.routing.transport import sinkhorn_plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkhornRouter(TokenChoiceCapacity):
    """Selection by the Sinkhorn plan of the group's logits.

    weights: 'softmax' weighs the chosen experts by a softmax over all logits, and the plan gets no gradient;
        'plan' weighs them by the plan itself.
    temperature, num_iterations: see `transport.sinkhorn_plan`.
    noise_std: Gaussian noise of standard deviation noise_std / E on the logits, in training only.
    capacity_factor, eval_capacity_factor, capacity_multiple, capacity_rounding: see `capacity.TokenChoiceCapacity`.

    Raises SpecError for K > E, a capacity factor that is not positive, a temperature that is not, or no iterations.
    """

    plan_type: ClassVar[type] = TokenChoice

    num_experts: int
    num_selected_experts: int = 1
    weights: Literal["softmax", "plan"] = "softmax"
    temperature: float = 1.0
    num_iterations: int = 20
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_num_selected(self.num_selected_experts, self.num_experts)
        self.check_capacity()
        check_not_negative(noise_std=self.noise_std)
        if not self.temperature > 0:
            raise SpecError(f"temperature={self.temperature} must be positive.")
        if self.num_iterations < 1:
            raise SpecError(f"num_iterations={self.num_iterations} must be at least 1.")

    @property
    def causal(self) -> bool:
        """Never: the plan balances over all tokens of the group."""
        return False

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """{'kernel': [D E]} and no state."""
        return {"kernel": init_kernel(key, dim, self.num_experts)}, {}

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
        logits = add_noise(key, linear_logits(x, params["kernel"]), self.noise_std / self.num_experts)
        balanced = sinkhorn_plan(logits, temperature=self.temperature, num_iterations=self.num_iterations)
        expert = jax.lax.top_k(jax.lax.stop_gradient(balanced), self.num_selected_experts)[1]
        probs = jax.nn.softmax(logits)
        weight = jnp.take_along_axis(probs if self.weights == "softmax" else balanced, expert, axis=-1)
        capacity = self.capacity(x.shape[1], self.num_experts, self.num_selected_experts, training=key is not None)
        plan = TokenChoice(expert, weight, num_experts=self.num_experts, capacity=capacity)
        return Routed(plan, {}, router_metrics(probs, choice_load(expert, self.num_experts)), state)


EXAMPLES = (
    SinkhornRouter(num_experts=3, noise_std=1.0),
    SinkhornRouter(num_experts=4, num_selected_experts=2, weights="plan", capacity_factor=1.0),
)
