"""The slow loop that all strategies must equal, in value and in every gradient.

Every token passes every expert, and a Python loop over the plan picks what counts. Shares no code with the others.
Source: ours, from the definitions of the plans in `core/plans.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.dispatch.buffers import Apply
from moejax.linear.dense import Dense

PLANS = (TokenChoice, ExpertChoice, SlotMix, Merge)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S D"]:
    """Differentiable in x, the plan's weights and params. Raises SpecError under jit: the plan's indices must be known."""
    try:
        if isinstance(plan, Merge):
            return _merge(plan, x, params, apply)
        if isinstance(plan, SlotMix):
            return _slot_mix(plan, x, params, apply)
        picks = _token_picks(plan) if isinstance(plan, TokenChoice) else _expert_picks(plan)
    except jax.errors.ConcretizationTypeError as error:
        raise SpecError("dispatch='reference' reads the plan in Python; call it outside jit and scan.") from error
    groups, tokens, dim = x.shape
    experts = plan.num_experts if isinstance(plan, TokenChoice) else plan.token.shape[1]
    everything = Buffers(jnp.broadcast_to(x.reshape(1, groups * tokens, dim), (experts, groups * tokens, dim)))
    y = apply(params, everything).tokens.astype(jnp.float32).reshape(experts, groups, tokens, dim)
    rows = [[jnp.zeros(dim, jnp.float32) for _ in range(tokens)] for _ in range(groups)]
    for group, token, expert, weight in picks:
        rows[group][token] += weight.astype(jnp.float32) * y[expert, group, token]
    return jnp.stack([jnp.stack(row) for row in rows]).astype(x.dtype)


def _token_picks(plan: TokenChoice) -> list[tuple[int, int, int, Array]]:
    """(group, token, expert, weight) of every choice served, in the order of service."""
    groups, tokens, choices = plan.expert.shape
    picks = []
    for group in range(groups):
        free = [tokens * choices if plan.capacity is None else plan.capacity] * plan.num_experts
        order = list(range(tokens))
        if plan.priority is not None:
            urgency = [float(plan.priority[group, token]) for token in order]
            order.sort(key=urgency.__getitem__, reverse=True)  # a reversed sort keeps ties in place
        for choice in range(choices):
            for token in order:
                expert = int(plan.expert[group, token, choice])
                if expert >= 0 and free[expert]:
                    free[expert] -= 1
                    picks.append((group, token, expert, plan.weight[group, token, choice]))
    return picks


def _expert_picks(plan: ExpertChoice) -> list[tuple[int, int, int, Array]]:
    groups, experts, capacity = plan.token.shape
    places = [(g, e, c) for g in range(groups) for e in range(experts) for c in range(capacity)]
    return [(g, int(plan.token[g, e, c]), e, plan.weight[g, e, c]) for g, e, c in places]


def _slot_mix(plan: SlotMix, x: Array, params: Any, apply: Apply) -> Array:
    groups, tokens, experts, capacity = plan.dispatch.shape
    bank = []
    for expert in range(experts):
        mixtures = [
            plan.dispatch[g, :, expert, c].astype(x.dtype) @ x[g] for g in range(groups) for c in range(capacity)
        ]
        bank.append(jnp.stack(mixtures))
    y = apply(params, Buffers(jnp.stack(bank))).tokens.astype(jnp.float32)  # [E, G*C, D]
    rows = []
    for group in range(groups):
        mine = y[:, group * capacity : (group + 1) * capacity].reshape(experts * capacity, -1)
        rows.append(plan.combine[group].astype(jnp.float32).reshape(tokens, experts * capacity) @ mine)
    return jnp.stack(rows).astype(x.dtype)


def _merge(plan: Merge, x: Array, params: Any, apply: Apply) -> Array:
    groups, experts = plan.weight.shape
    rows = []
    for group in range(groups):

        def average(leaf: Any, group: int = group) -> Any:
            dense = leaf.materialise() if hasattr(leaf, "materialise") else leaf
            mean = sum(plan.weight[group, e].astype(dense.dtype) * dense[e] for e in range(experts))
            return Dense(mean[None]) if hasattr(leaf, "materialise") else mean[None]

        merged = jax.tree.map(average, params, is_leaf=lambda node: hasattr(node, "materialise"))
        rows.append(apply(merged, Buffers(x[group][None])).tokens[0])
    return jnp.stack(rows)
