"""Soft MoE: slots are averages of tokens, outputs are averages of slots. Nothing is dropped, all is differentiable.

Source: Puigcerver et al. 2024, "From Sparse to Soft Mixtures of Experts", section 2.1 (dispatch, combine) and section 2.3
(l2 normalisation with a learned scale); details (epsilon, initializer, rounding of slots) as in the released code.
Deviations: none known.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import Routed, SlotMix
from moejax.routing.capacity import check_capacity_factor, slots_per_expert
from moejax.routing.limits import check_not_negative, check_num_experts
from moejax.routing.logits import add_noise
from moejax.routing.statistics import router_metrics

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftRouter:
    """num_slots slots per expert; dispatch is a softmax over the tokens, combine a softmax over all E C slots.

    num_slots: C; None (with capacity_factor and group_size): C = capacity_factor * group_size / E, halves
        rounded up.
    noise_std: Gaussian noise of standard deviation noise_std on the logits, in training only (0 in the paper).

    Raises SpecError when both or neither of num_slots and capacity_factor are given, or a factor comes without the
    group size (slots are parameters, so their number must be known at initialisation).
    """

    plan_type: ClassVar[type] = SlotMix

    num_experts: int
    num_slots: int | None = 1
    capacity_factor: float | None = None
    group_size: int | None = None
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_num_experts(self.num_experts)
        check_not_negative(noise_std=self.noise_std)
        check_capacity_factor("capacity_factor", self.capacity_factor)
        if (self.num_slots is None) == (self.capacity_factor is None):
            raise SpecError(
                f"num_slots={self.num_slots} and capacity_factor={self.capacity_factor}: give one and set the other None."
            )
        if self.num_slots is not None and self.num_slots < 1:
            raise SpecError(f"num_slots={self.num_slots} must be at least 1.")
        if self.capacity_factor is not None and (self.group_size is None or self.group_size < 1):
            raise SpecError(
                f"capacity_factor={self.capacity_factor} needs group_size >= 1 (tokens routed together) to count slots."
            )
        self.slots()

    @property
    def causal(self) -> bool:
        """Never: every slot mixes all tokens of the group."""
        return False

    def slots(self) -> int:
        """C, slots per expert."""
        if self.num_slots is not None:
            return self.num_slots
        assert self.capacity_factor is not None and self.group_size is not None
        return slots_per_expert(
            self.capacity_factor, num_tokens=self.group_size, num_experts=self.num_experts, rounding="round"
        )

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """{'mu': [D E C], 'scale': []} and no state.

        mu: lecun_normal on the whole shape (variance 1 / (D E)); its norm drops out of the logits but sets how fast an
        optimiser turns it.
        """
        mu = jax.nn.initializers.lecun_normal()(key, (dim, self.num_experts, self.slots()), jnp.float32)
        return {"mu": mu, "scale": jnp.ones((), jnp.float32)}, {}

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """A SlotMix. `token_ids` are not used."""
        tokens = l2_normalize(x.astype(jnp.float32), axis=-1)
        mu = params["scale"] * l2_normalize(params["mu"].astype(jnp.float32), axis=0)
        logits = jnp.einsum("GSD,DEC->GSEC", tokens, mu, precision=jax.lax.Precision.HIGHEST)
        logits = add_noise(key, logits, self.noise_std)
        dispatch = jax.nn.softmax(logits, axis=1)
        combine = jax.nn.softmax(logits, axis=(2, 3))
        probs = combine.sum(axis=3)
        return Routed(SlotMix(dispatch, combine), {}, router_metrics(probs, probs.mean(axis=(0, 1))), state)


def l2_normalize(x: Float[Array, "..."], *, axis: int) -> Float[Array, "..."]:
    """Divides x by sqrt(sum x^2 + 1e-6) along `axis`, so that zeros stay zeros with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=True) + EPSILON)


EXAMPLES = (
    SoftRouter(num_experts=3),
    SoftRouter(num_experts=4, num_slots=2, noise_std=1.0),
    SoftRouter(num_experts=3, num_slots=None, capacity_factor=1.5, group_size=8),
)
