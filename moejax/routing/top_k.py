"""Top-k token choice: V-MoE, Switch (K = 1), and their descendants by option.

Source: Riquelme et al. 2021 (V-MoE), section 2 and appendix A; Fedus et al. 2022 (Switch), section 2; sigmoid scores and
the balancing bias: DeepSeek-V3 (2024), section 2.1.2, and Wang et al. 2024 ("Auxiliary-loss-free load balancing").
Deviations: a capacity never exceeds the tokens of a group; capacity_multiple is 1 by default (4 in the released V-MoE).
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.plans import Routed, TokenChoice
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.gates.contract import Gate
from moejax.routing.gates.laplace import Laplace
from moejax.routing.gates.linear import Linear
from moejax.routing.limits import check_not_negative, check_num_selected
from moejax.routing.logits import add_noise
from moejax.routing.losses import (
    balance_loss,
    device_balance_loss,
    importance_loss,
    load_loss,
    load_probability,
    z_loss,
)
from moejax.routing.overflow import Fitted, fit_to_capacity
from moejax.routing.statistics import choice_load, router_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKRouter(TokenChoiceCapacity):
    """Every token goes to its K best experts.

    noise_std: Gaussian noise of standard deviation noise_std / E on the logits, in training only.
    order: 'softmax_then_top_k' weighs the chosen by their scores among all experts; 'top_k_then_softmax' by a softmax
        over the chosen alone.
    scores: 'softmax', or 'sigmoid' (each expert's score by itself; with the first order only).
    renormalize: the weights of a token's chosen experts sum to one.
    capacity_factor, eval_capacity_factor, capacity_multiple, capacity_rounding: see `capacity.TokenChoiceCapacity`.
    batch_priority: full experts serve tokens in the order of their largest gate, not of their position.
    eval_overflow: without a key, a full expert keeps its choices of largest gate, and the others are given up ('drop') or sent
        to the best experts with room ('reroute'); see `overflow`. None: the dispatcher serves them in its order.
    importance_, load_, balance_, device_balance_, sequence_balance_, z_loss_weight: see `losses`. The load loss exists in
        training only (it needs noise). num_devices: over which the device-level loss balances the experts, equally many on each
        in order.
    balance_groups: 'each': the balance and device-level losses are those of every group by itself, their mean; 'together': of all
        tokens of the batch at once, on a mesh of the batch of all devices. The sequence-level loss, DeepSeek-V3's, is always that
        of every group, which is a sequence where the layer's group_size is None.
    gate: what gives the scores, a method of `routing.gates`: linear ones without bias by default.
    bias_update_rate: above 0, a bias per expert is added to the scores for selection only; each training call moves it
        by this rate, up for experts below the mean load and down for those above.

    Raises SpecError for K > E, a capacity factor that is not positive, or options that exclude each other.
    """

    plan_type: ClassVar[type] = TokenChoice

    num_experts: int
    num_selected_experts: int = 1
    noise_std: float = 1.0
    order: Literal["softmax_then_top_k", "top_k_then_softmax"] = "softmax_then_top_k"
    scores: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = False
    batch_priority: bool = False
    eval_overflow: Literal["drop", "reroute"] | None = None
    importance_loss_weight: float = 0.0
    load_loss_weight: float = 0.0
    balance_loss_weight: float = 0.0
    device_balance_loss_weight: float = 0.0
    sequence_balance_loss_weight: float = 0.0
    num_devices: int = 1
    z_loss_weight: float = 0.0
    bias_update_rate: float = 0.0
    balance_groups: Literal["each", "together"] = "each"
    gate: Gate = dataclasses.field(default=Linear(), metadata={"room": "routing.gates"})

    def __post_init__(self) -> None:
        check_num_selected(self.num_selected_experts, self.num_experts)
        self.check_capacity()
        check_not_negative(
            noise_std=self.noise_std,
            importance_loss_weight=self.importance_loss_weight,
            load_loss_weight=self.load_loss_weight,
            balance_loss_weight=self.balance_loss_weight,
            device_balance_loss_weight=self.device_balance_loss_weight,
            sequence_balance_loss_weight=self.sequence_balance_loss_weight,
            z_loss_weight=self.z_loss_weight,
            bias_update_rate=self.bias_update_rate,
        )
        if self.scores == "sigmoid" and self.order == "top_k_then_softmax":
            raise SpecError("order='top_k_then_softmax' uses no sigmoid; use scores='softmax', or the other order.")
        if self.num_devices < 1 or self.num_experts % self.num_devices:
            raise SpecError(f"num_devices={self.num_devices} must divide num_experts={self.num_experts}.")
        if self.eval_overflow and self.factor(training=False) is None:
            raise SpecError(
                f"eval_overflow={self.eval_overflow!r} needs a capacity: set capacity_factor or eval_capacity_factor."
            )
        if self.load_loss_weight and not self.noise_std:
            raise SpecError("load_loss_weight > 0 needs noise_std > 0: the load is estimated over the noise.")
        if self.load_loss_weight and self.bias_update_rate:
            raise SpecError("load_loss_weight and bias_update_rate exclude each other: the load loss knows no bias.")

    @property
    def causal(self) -> bool:
        """Dropless, or first choices served by position: no token is displaced by a later one."""
        by_position = not self.batch_priority and not self.eval_overflow
        return self.always_dropless or (self.num_selected_experts == 1 and by_position)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """The gate's parameters, and {'bias': [E]} (or {} when no bias balances)."""
        bias = {"bias": jnp.zeros((self.num_experts,), jnp.float32)} if self.bias_update_rate else {}
        return self.gate.init(key, dim, self.num_experts), bias

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
        clean = self.gate.logits(params, x)
        noisy = add_noise(key, clean, self._noise())
        log_scores = self._log_scores(noisy)
        expert = self._select(log_scores, state)
        weight = self._weight(noisy, log_scores, expert)
        probs = jax.nn.softmax(log_scores)  # the scores themselves for softmax; sigmoids divided by their sum
        capacity = self.capacity(x.shape[1], self.num_experts, self.num_selected_experts, training=key is not None)
        served_by_gate = self.batch_priority and capacity is not None
        fitted = Fitted(expert, weight, {})
        if self.eval_overflow and key is None and capacity is not None:
            fitted = self._fit(clean, log_scores, expert, weight, state, capacity)
        plan = TokenChoice(
            fitted.expert,
            fitted.weight,
            jax.lax.stop_gradient(jnp.exp(log_scores).max(axis=-1)) if served_by_gate else None,
            num_experts=self.num_experts,
            capacity=capacity,
        )
        load = choice_load(expert, self.num_experts)
        losses = self._losses(clean, noisy, probs, expert, training=key is not None)
        metrics = router_metrics(probs, load) | fitted.metrics
        return Routed(plan, losses, metrics, self._next_state(state, load, key))

    def _noise(self) -> float:
        return self.noise_std / self.num_experts

    def _log_scores(self, logits: Float[Array, "G S E"]) -> Float[Array, "G S E"]:
        # Logarithms, so that renormalising scores that underflow never divides zero by zero.
        return jax.nn.log_softmax(logits) if self.scores == "softmax" else jax.nn.log_sigmoid(logits)

    def _select(self, log_scores: Float[Array, "G S E"], state: Any) -> Int[Array, "G S K"]:
        return jax.lax.top_k(jax.lax.stop_gradient(self._ranking(log_scores, state)), self.num_selected_experts)[1]

    def _ranking(self, log_scores: Float[Array, "G S E"], state: Any) -> Float[Array, "G S E"]:
        return jnp.exp(log_scores) + state["bias"][None, None] if self.bias_update_rate else log_scores

    def _weight(
        self, logits: Float[Array, "G S E"], log_scores: Float[Array, "G S E"], expert: Int[Array, "G S K"]
    ) -> Float[Array, "G S K"]:
        if self.order == "top_k_then_softmax":
            return jax.nn.softmax(jnp.take_along_axis(logits, expert, axis=-1))
        chosen = jnp.take_along_axis(log_scores, expert, axis=-1)
        return jax.nn.softmax(chosen) if self.renormalize else jnp.exp(chosen)

    def _fit(self, logits: Any, log_scores: Any, expert: Any, weight: Any, state: Any, capacity: int) -> Fitted:
        """The choices within capacity; another expert weighs what its score is on the scale of the token's choices."""
        alone = self.order == "top_k_then_softmax"
        scale = logits if alone else log_scores
        if alone or self.renormalize:
            chosen = jnp.take_along_axis(scale, expert, axis=-1)
            scale = scale - jax.nn.logsumexp(chosen, axis=-1, keepdims=True)
        ranking, reroute = self._ranking(log_scores, state), self.eval_overflow == "reroute"
        return fit_to_capacity(expert, weight, jnp.exp(scale), ranking, capacity, reroute=reroute)

    def _losses(
        self,
        clean: Float[Array, "G S E"],
        noisy: Float[Array, "G S E"],
        probs: Float[Array, "G S E"],
        expert: Int[Array, "G S K"],
        *,
        training: bool,
    ) -> dict[str, Float[Array, ""]]:
        losses = {}
        if self.importance_loss_weight:
            clean_probs = jax.nn.softmax(self._log_scores(clean))
            losses["importance"] = self.importance_loss_weight * importance_loss(clean_probs)
        if self.load_loss_weight and training:
            probability = load_probability(clean, noisy, self._noise(), self.num_selected_experts)
            losses["load"] = self.load_loss_weight * load_loss(probability)
        over = self._together(probs, expert) if self.balance_groups == "together" else (probs, expert)
        if self.balance_loss_weight:
            losses["balance"] = self.balance_loss_weight * balance_loss(*over)
        if self.device_balance_loss_weight:
            losses["device_balance"] = self.device_balance_loss_weight * device_balance_loss(*over, self.num_devices)
        if self.sequence_balance_loss_weight:
            losses["sequence_balance"] = self.sequence_balance_loss_weight * balance_loss(probs, expert)
        if self.z_loss_weight:
            losses["z"] = self.z_loss_weight * z_loss(clean)
        return losses

    def _together(self, probs: Float[Array, "G S E"], expert: Int[Array, "G S K"]) -> tuple[Array, Array]:
        return probs.reshape(1, -1, probs.shape[-1]), expert.reshape(1, -1, expert.shape[-1])

    def _next_state(self, state: Any, load: Float[Array, "E"], key: PRNGKeyArray | None) -> Any:
        if not self.bias_update_rate or key is None:
            return state
        step = self.bias_update_rate * jnp.sign(1.0 / self.num_experts - load)
        return {"bias": state["bias"] + jax.lax.stop_gradient(step)}


EXAMPLES = (
    TopKRouter(
        num_experts=4,
        num_selected_experts=2,
        capacity_factor=1.05,
        eval_capacity_factor=2.0,
        importance_loss_weight=0.005,
        load_loss_weight=0.005,
    ),
    TopKRouter(
        num_experts=3,
        noise_std=0.0,
        capacity_factor=1.25,
        balance_loss_weight=0.01,
        z_loss_weight=0.001,
        batch_priority=True,
    ),
    TopKRouter(
        num_experts=4,
        num_selected_experts=2,
        noise_std=0.0,
        scores="sigmoid",
        renormalize=True,
        bias_update_rate=0.01,
        gate=Linear(kernel_init="kaiming_uniform"),
    ),
    TopKRouter(
        num_experts=4,
        num_selected_experts=3,
        device_balance_loss_weight=0.05,
        num_devices=2,
        order="top_k_then_softmax",
        capacity_factor=1.0,
        eval_capacity_factor=None,
        capacity_multiple=2,
    ),
    TopKRouter(num_experts=4, num_selected_experts=2, noise_std=0.0, capacity_factor=1.0, eval_overflow="reroute"),
    TopKRouter(num_experts=4, num_selected_experts=2, renormalize=True, gate=Laplace()),
)
