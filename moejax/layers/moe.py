"""The mixture-of-experts layer: router + dispatch + experts, and shared experts beside them.

Source: ours; every method lives in the router, the dispatcher or the bank. shared_gate: the Qwen team 2024, "Qwen1.5-MoE", and
    its public code.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.contracts import Experts, Router, enter, leave
from moejax.core.errors import SpecError
from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.core.spec import method
from moejax.dispatch.accounting import plan_metrics
from moejax.dispatch.strategies import check_strategy
from moejax.exchange.all_to_all import AllToAll
from moejax.exchange.contract import Exchange, exchange_metrics
from moejax.exchange.on_devices import own_key
from moejax.layers.feed_forward import FeedForward
from moejax.routing.logits import init_kernel, linear_logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoE:
    """router, experts: any method of those rooms. dispatch: how tokens move on a device ('auto' picks by plan).

    exchange: how they reach the experts of other devices, where a mesh is set; any method of that room.
    group_size: tokens routed together; None routes each sequence by itself.
    shared: a bank whose single expert every token passes, added to the routed output (None: no shared expert; n shared
        experts of width F are one of width n F).
    """

    router: Router = method("routing")
    experts: Experts = method("experts")
    dispatch: str = "auto"
    exchange: Exchange = method("exchange", default=AllToAll())
    group_size: int | None = None
    shared: Experts | None = method("experts", default=None)
    shared_gate: bool = False

    def __post_init__(self) -> None:
        check_strategy(self.dispatch, self.router.plan_type)
        if self.router.plan_type not in self.exchange.plans:
            raise SpecError(
                f"exchange {type(self.exchange).__name__} cannot move tokens by a {self.router.plan_type.__name__} plan; "
                f"it can by {', '.join(plan.__name__ for plan in self.exchange.plans)}."
            )
        if self.group_size is not None and self.group_size < 1:
            raise SpecError(f"group_size={self.group_size} must be at least 1 (or None: one sequence per group).")
        if self.shared_gate and self.shared is None:
            raise SpecError("shared_gate=True needs a shared expert to multiply; give `shared` a bank.")

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
        """Parameters {'router', 'experts'[, 'shared'[, 'shared_gate']]} and router state for tokens of width `dim`."""
        router, state = self.router.init(named(key, "router"), dim)
        params = {"router": router, "experts": self.experts.init(named(key, "experts"), self.router.num_experts, dim)}
        if self.shared is not None:
            params["shared"] = FeedForward(experts=self.shared).init(named(key, "shared"), dim)
        if self.shared_gate:
            params["shared_gate"] = {"kernel": init_kernel(named(key, "shared_gate"), dim, 1)}
        return params, state

    def apply(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "B T D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "B T"] | None = None,
    ) -> LayerOutput:
        """Routes the tokens of each group, moves them, computes and moves them back, at the width of the bank's `enter`.

        Raises SpecError when `group_size` does not divide the number of tokens B T.
        """
        size = self._tokens_per_group(x)
        groups, router = x.reshape(-1, size, x.shape[-1]), params["router"]
        if hasattr(router, "observe"):  # calibration: sums over what the router reads
            router, groups = router.observe(groups)
        ids = None if token_ids is None else token_ids.reshape(-1, size)
        routed = self.router.route(router, state, groups, key=maybe_named(key, "router"), token_ids=ids)
        experts_key = maybe_named(key, "experts")
        moved = self.exchange.dispatch(
            self.dispatch,
            routed.plan,
            enter(self.experts, params["experts"], groups),
            params["experts"],
            lambda bank, layout: self.experts.apply(bank, layout, key=own_key(experts_key)),
        )
        y = leave(self.experts, params["experts"], moved).reshape(x.shape)
        if self.shared is not None:
            y = y + self.apply_shared(params, x, key=maybe_named(key, "shared"))
        metrics = routed.metrics | plan_metrics(routed.plan, num_tokens=size)
        metrics |= exchange_metrics(self.exchange, self.dispatch, routed.plan)
        return LayerOutput(tokens=y, state=routed.state, losses=routed.losses, metrics=metrics, plan=routed.plan)

    def apply_shared(
        self, params: Any, x: Float[Array, "B T D"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """What the shared expert adds, gated where shared_gate is on. params: of the whole layer."""
        assert self.shared is not None
        y = FeedForward(experts=self.shared).apply(params["shared"], x, key=key)
        if not self.shared_gate:
            return y
        gate = jax.nn.sigmoid(linear_logits(x, params["shared_gate"]["kernel"])).astype(y.dtype)
        return y * gate

    def _tokens_per_group(self, x: Float[Array, "B T D"]) -> int:
        tokens = x.shape[0] * x.shape[1]
        size = self.group_size or x.shape[1]
        if tokens % size:
            raise SpecError(
                f"group_size={size} does not divide the {tokens} tokens of a batch "
                f"({x.shape[0]} sequences of {x.shape[1]}); choose a divisor of {tokens}, or None."
            )
        return size
