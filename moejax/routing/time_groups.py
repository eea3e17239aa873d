"""Top-k among the experts of the token's time interval: each interval of the diffusion time has experts of its own.

Source: Luo et al. 2023, "Image Super-resolution via Latent Diffusion: A Sampling-space Mixture of Experts and
Frequency-augmented Decoder Approach" (SS-MoE): the interval of the sampling step selects the expert; Fan et al. 2025,
"Phased DMD": every phase of the signal-to-noise range has an expert of its own.
Deviations: both choose a whole denoiser or an adapter of it per interval; here the experts of each MoE layer are chosen, so
that attention is shared, and several experts of one interval are chosen among by their gates (as SS-MoE's spatial mixture
does inside its U-Net). SS-MoE's decoder and the distillation of Phased DMD are other methods.
"""

import bisect
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import Routed, TokenChoice
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.gates.contract import Gate
from moejax.routing.gates.linear import Linear
from moejax.routing.limits import check_not_negative, check_num_selected
from moejax.routing.statistics import choice_load, router_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeGroupsRouter(TokenChoiceCapacity):
    """The K best of the E / I experts that own a token's time; weights are a softmax over those.

    boundaries: I - 1 ascending time steps; interval i is boundaries[i - 1] <= step < boundaries[i], the first and the last
        open, so that every step lies in one. () is one interval. `diffusion.snr_phases` finds them from a process.
    num_experts: of all intervals together; interval i owns the experts i E / I to (i + 1) E / I.
    num_selected_experts: K, at most E / I. renormalize: the weights of the chosen sum to one.
    capacity_factor and its kin: see `capacity.TokenChoiceCapacity`; S K spread over the experts of one interval.
    gate: what gives the scores, a method of `routing.gates`.
    balance_loss_weight: on the balance loss (`losses.balance_loss`) inside each interval, over all tokens of the batch,
        weighted by the tokens that the interval has.
    Times come as token_ids, in whole steps. Without them nothing is known of the time, and all E experts are open.

    Raises SpecError when the intervals cannot share the experts alike, K > E / I, or boundaries do not ascend.
    """

    plan_type: ClassVar[type] = TokenChoice
    reads_time: ClassVar[bool] = True  # a diffusion model gives such routers its time steps as token_ids

    num_experts: int
    num_selected_experts: int = 1
    boundaries: tuple[int, ...] = ()
    renormalize: bool = False
    balance_loss_weight: float = 0.0
    gate: Gate = dataclasses.field(default=Linear(), metadata={"room": "routing.gates"})

    def __post_init__(self) -> None:
        check_num_selected(self.num_selected_experts, self.num_experts)
        self.check_capacity()
        check_not_negative(balance_loss_weight=self.balance_loss_weight)
        if any(low >= high for low, high in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise SpecError(f"boundaries={self.boundaries} must ascend: each is the first step of another interval.")
        if self.num_experts % self.num_intervals:
            raise SpecError(
                f"num_experts={self.num_experts} cannot be shared alike by {self.num_intervals} intervals; "
                f"use a multiple of {self.num_intervals}."
            )
        if self.num_selected_experts > self.experts_per_interval:
            raise SpecError(
                f"num_selected_experts={self.num_selected_experts} is more than the {self.experts_per_interval} experts "
                f"that each of {self.num_intervals} intervals has."
            )

    @property
    def num_intervals(self) -> int:
        """I."""
        return len(self.boundaries) + 1

    @property
    def experts_per_interval(self) -> int:
        """E / I."""
        return self.num_experts // self.num_intervals

    @property
    def causal(self) -> bool:
        """Dropless, or first choices served by position: no token is displaced by a later one."""
        return self.always_dropless or self.num_selected_experts == 1

    def experts_of(self, step: int) -> range:
        """The experts that own a time step."""
        interval = bisect.bisect_right(self.boundaries, step)
        return range(interval * self.experts_per_interval, (interval + 1) * self.experts_per_interval)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """The gate's parameters and no state."""
        return self.gate.init(key, dim, self.num_experts), {}

    def route(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "G S D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "G S"] | None = None,
    ) -> Routed:
        """A TokenChoice; token_ids are time steps. Raises SpecError when the capacity rounds to zero."""
        logits = self.gate.logits(params, x)
        interval = None if token_ids is None else self._interval(token_ids)
        if interval is not None:
            owner = jnp.arange(self.num_experts, dtype=jnp.int32) // self.experts_per_interval
            logits = jnp.where(interval[..., None] == owner[None, None], logits, -jnp.inf)
        log_probs = jax.nn.log_softmax(logits)
        expert = jax.lax.top_k(jax.lax.stop_gradient(log_probs), self.num_selected_experts)[1]
        chosen = jnp.take_along_axis(log_probs, expert, axis=-1)
        weight = jax.nn.softmax(chosen) if self.renormalize else jnp.exp(chosen)
        num_open = self.num_experts if interval is None else self.experts_per_interval
        capacity = self.capacity(x.shape[1], num_open, self.num_selected_experts, training=key is not None)
        plan = TokenChoice(expert, weight, num_experts=self.num_experts, capacity=capacity)
        probs, losses = jnp.exp(log_probs), {}
        if self.balance_loss_weight:
            losses["balance"] = self.balance_loss_weight * self._balance_loss(probs, expert, interval)
        return Routed(plan, losses, router_metrics(probs, choice_load(expert, self.num_experts)), state)

    def _interval(self, steps: Int[Array, "G S"]) -> Int[Array, "G S"]:
        starts = jnp.asarray(self.boundaries, jnp.int32)
        return (steps[..., None].astype(jnp.int32) >= starts[None, None]).sum(axis=-1, dtype=jnp.int32)

    def _balance_loss(
        self, probs: Float[Array, "G S E"], expert: Int[Array, "G S K"], interval: Int[Array, "G S"] | None
    ) -> Float[Array, ""]:
        """Sum over intervals of (share of the tokens) * (E / I) * sum_e f_e P_e, f and P over the interval's tokens."""
        picks = jax.nn.one_hot(expert, self.num_experts, dtype=probs.dtype).mean(axis=2).sum(axis=(0, 1))
        mass, tokens = probs.sum(axis=(0, 1)), jnp.asarray(expert.shape[0] * expert.shape[1], jnp.float32)
        if interval is None:
            return self.num_experts * jnp.sum(picks * mass) / jnp.square(tokens)
        present = jax.nn.one_hot(interval, self.num_intervals, dtype=probs.dtype).sum(axis=(0, 1))
        own = jnp.repeat(jnp.maximum(present, 1.0), self.experts_per_interval)
        return self.experts_per_interval * jnp.sum(picks * mass / own) / tokens


EXAMPLES = (
    TimeGroupsRouter(num_experts=4, boundaries=(500,), balance_loss_weight=0.01),
    TimeGroupsRouter(num_experts=6, num_selected_experts=2, boundaries=(3, 6), renormalize=True, capacity_factor=1.5),
)
