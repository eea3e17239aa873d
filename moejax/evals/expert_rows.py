"""How many rows an expert bank computes for a batch, from the shape of the router's plan."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core.contracts import enter
from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.evals.flops import count_flops
from moejax.layers.moe import MoE


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertRows:
    """Of a whole batch. served: rows with a token (token choice: if routing is even). padding: rows without one.

    mixing_flops: to mix tokens into slots and back (soft), or parameters (merge); moving tokens costs none.
    """

    served: int
    padding: int
    experts_per_token: float
    router_flops: int
    mixing_flops: int = 0


def expert_rows(moe: MoE, params: Any, state: Any, x: Any, key: Any) -> ExpertRows:
    """Rows for tokens shaped [B T D]; a key (or its shape) asks for the training capacity. Source: ours."""
    size = moe.group_size or x.shape[1]
    groups = jax.ShapeDtypeStruct((x.shape[0] * x.shape[1] // size, size, x.shape[2]), x.dtype)

    def route(p: Any, s: Any, tokens: Any, k: Any) -> Any:
        steps = jnp.zeros(tokens.shape[:2], jnp.int32) if getattr(moe.router, "reads_time", False) else None
        return moe.router.route(p, s, tokens, key=k, token_ids=steps).plan

    args = (params["router"], state, groups, key)
    plan = jax.eval_shape(route, *args)
    moved = jax.eval_shape(lambda p, tokens: enter(moe.experts, p, tokens), params["experts"], groups)
    return _count(plan, moved.shape, _bank_size(params["experts"]), count_flops(route, *args))


def _count(plan: Plan, shape: tuple[int, ...], bank_size: int, router_flops: int) -> ExpertRows:
    num_groups, size, dim = shape
    if isinstance(plan, TokenChoice):
        choices = num_groups * size * plan.expert.shape[-1]
        slots = choices if plan.capacity is None else num_groups * plan.num_experts * plan.capacity
        served = min(choices, slots)
        return ExpertRows(
            served=served,
            padding=slots - served,
            experts_per_token=float(plan.expert.shape[-1]),
            router_flops=router_flops,
        )
    if isinstance(plan, Merge):
        mixing = 2 * num_groups * bank_size
        return ExpertRows(
            served=num_groups * size, padding=0, experts_per_token=1.0, router_flops=router_flops, mixing_flops=mixing
        )
    slots = math.prod(plan.token.shape[1:] if isinstance(plan, ExpertChoice) else plan.dispatch.shape[2:])
    mixing = 4 * num_groups * size * slots * dim if isinstance(plan, SlotMix) else 0
    return ExpertRows(
        served=num_groups * slots,
        padding=0,
        experts_per_token=slots / size,
        router_flops=router_flops,
        mixing_flops=mixing,
    )


def _bank_size(bank: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(bank))
