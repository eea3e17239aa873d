"""From one layer to one per interval of the time: its experts copied, so that every interval computes what it computed."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from moejax.core.errors import SpecError
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.linear.expert_axis import add_expert_axis, take_experts
from moejax.routing.capacity import TokenChoiceCapacity
from moejax.routing.time_groups import TimeGroupsRouter
from moejax.routing.top_k import TopKRouter


def copy_to_intervals(params: Any, old: FeedForward | MoE, new: FeedForward | MoE, dim: int) -> Any:
    """Parameters of `new`, an MoE with a `time_groups` router, that compute what `params` of `old` do; D = dim.

    old: a dense layer, which becomes one expert per interval, or an MoE with a softmax top-k router, whose router and
    experts each interval gets whole. Shared experts stay. Raises SpecError when the layers do not fit each other.
    Source: Luo et al. 2023 (SS-MoE): the experts of all intervals start from one trained denoiser.
    """
    if not isinstance(new, MoE) or not isinstance(new.router, TimeGroupsRouter):
        found = type(new.router if isinstance(new, MoE) else new).__name__
        raise SpecError(f"the new layer's router is {found}; experts by time need 'time_groups'.")
    copies = new.router.num_intervals
    if isinstance(old, FeedForward):
        _check(old.experts == new.experts and new.router.experts_per_interval == 1 and new.shared is None, old, new)
        bank = take_experts(add_expert_axis(params), [0] * copies)
        # One open expert has weight 1, whatever the router's kernel is.
        return {"router": {"kernel": jnp.zeros((dim, copies))}, "experts": bank}
    _check(_fits(old, new), old, new)
    index = list(range(old.router.num_experts)) * copies
    kernel = jnp.concatenate([params["router"]["kernel"]] * copies, axis=-1)
    return params | {"router": {"kernel": kernel}, "experts": take_experts(params["experts"], index)}


def _fits(old: MoE, new: MoE) -> bool:
    router, timed = old.router, new.router
    return (
        isinstance(router, TopKRouter)
        and isinstance(timed, TimeGroupsRouter)
        and (router.order, router.scores, router.bias_update_rate) == ("softmax_then_top_k", "softmax", 0.0)
        and (router.num_selected_experts, router.renormalize) == (timed.num_selected_experts, timed.renormalize)
        and router.num_experts == timed.experts_per_interval
        and (router.batch_priority, _capacity(router)) == (False, _capacity(timed))
        and (old.experts, old.shared) == (new.experts, new.shared)
    )


def _capacity(router: TopKRouter | TimeGroupsRouter) -> tuple[Any, ...]:
    fields = dataclasses.fields(TokenChoiceCapacity)
    return tuple(getattr(router, field.name) for field in fields)


def _check(fits: bool, old: Any, new: MoE) -> None:
    if not fits:
        raise SpecError(
            f"{new} cannot start as copies of {old}: each interval needs the same experts, as many and as many chosen, "
            "with the same weights (a softmax over the interval's experts), and the same shared expert."
        )
