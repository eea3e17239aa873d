"""Expert choice: every expert takes the tokens of a group that score highest for it.

Source: Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing", section 3.2; scores by optimal transport: Liu et
al. 2024, "Routers in Vision Mixture of Experts".
Deviations: Zhou et al. leave the rounding of C = S c / E open; here up, or halves up (capacity_rounding). The actual
factor C E / S can be far from the asked one in small groups. The sparse transport is solved by Adam written here, with the
released code's step size and number of steps.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import ExpertChoice, Routed
from moejax.routing.capacity import Rounding, check_capacity_factor, check_capacity_multiple, slots_per_expert
from moejax.routing.limits import check_not_negative, check_num_experts
from moejax.routing.logits import add_noise, init_kernel, linear_logits
from moejax.routing.statistics import router_metrics
from moejax.routing.transport import sinkhorn_plan, sparse_plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertChoiceRouter:
    """Expert e processes the C tokens of the group that score highest for e; weights are a softmax over experts.

    capacity_factor: mean number of experts per token; C = capacity_factor * S / E, rounded, at most S.
    capacity_multiple, capacity_rounding: see `capacity.slots_per_expert`.
    scores: what the tokens of an expert are ranked by. 'softmax': the weights. 'sinkhorn': the balanced plan of
        `transport.sinkhorn_plan`. 'sparse_transport': the weights plus each token's price in the transport in which every
        expert takes at most C tokens (`transport.sparse_plan`).
    num_iterations: of Sinkhorn or of the sparse transport.
    noise_std: Gaussian noise of standard deviation noise_std / E on the logits, in training only (0 in Zhou et al.).

    Raises SpecError for a capacity factor that is not positive, or for no iterations.
    """

    plan_type: ClassVar[type] = ExpertChoice

    num_experts: int
    capacity_factor: float = 1.0
    capacity_multiple: int = 1
    capacity_rounding: Rounding = "ceil"
    scores: Literal["softmax", "sinkhorn", "sparse_transport"] = "softmax"
    num_iterations: int = 20
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_num_experts(self.num_experts)
        check_capacity_factor("capacity_factor", self.capacity_factor)
        check_capacity_multiple(self.capacity_multiple)
        check_not_negative(noise_std=self.noise_std)
        if self.num_iterations < 1:
            raise SpecError(f"num_iterations={self.num_iterations} must be at least 1.")

    @property
    def causal(self) -> bool:
        """Never: a later token can take an earlier one's place."""
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
        """An ExpertChoice. Raises SpecError when the capacity rounds to zero. `token_ids` are not used."""
        logits = add_noise(key, linear_logits(x, params["kernel"]), self.noise_std / self.num_experts)
        probs = jax.nn.softmax(logits)
        capacity = slots_per_expert(
            self.capacity_factor,
            num_tokens=x.shape[1],
            num_experts=self.num_experts,
            multiple=self.capacity_multiple,
            rounding=self.capacity_rounding,
        )
        ranking = jax.lax.stop_gradient(self._ranking(logits, probs, capacity))
        token = jax.lax.top_k(ranking.swapaxes(1, 2), capacity)[1]
        weight = jnp.take_along_axis(probs.swapaxes(1, 2), token, axis=2)
        load = jnp.full((self.num_experts,), 1.0 / self.num_experts, jnp.float32)
        return Routed(ExpertChoice(token, weight), {}, router_metrics(probs, load), state)

    def _ranking(
        self, logits: Float[Array, "G S E"], probs: Float[Array, "G S E"], capacity: int
    ) -> Float[Array, "G S E"]:
        if self.scores == "sinkhorn":
            return sinkhorn_plan(logits, num_iterations=self.num_iterations)
        if self.scores == "sparse_transport":
            _, price = sparse_plan(probs, num_nonzero=capacity, num_iterations=self.num_iterations)
            return probs + price[:, :, None]
        return probs


EXAMPLES = (
    ExpertChoiceRouter(num_experts=3, capacity_factor=1.0),
    ExpertChoiceRouter(num_experts=4, capacity_factor=2.0, noise_std=1.0, capacity_multiple=2),
    ExpertChoiceRouter(num_experts=3, capacity_factor=1.5, scores="sinkhorn"),
    ExpertChoiceRouter(num_experts=3, capacity_factor=1.5, scores="sparse_transport"),
)
