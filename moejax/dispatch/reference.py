"""The slow loop that all strategies must equal, in value and in every gradient.

Every token passes every expert, and a Python loop over the plan picks what counts. Shares no code with the others.
Source: ours, from the definitions of the plans in `core/plans.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.dispatch.buffers import Apply
from moejax.linear.dense import Dense

PLANS = (TokenChoice, ExpertChoice, SlotMix, Merge)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S F"]:
    """Differentiable in x, the plan's weights and params. Raises SpecError under jit: the plan's indices must be known."""
    try:
        if isinstance(plan, Merge):
            return _merge(plan, x, params, apply)
        if isinstance(plan, SlotMix):
            return _slot_mix(plan, x, params, apply)
        served = _served_choices(plan) if isinstance(plan, TokenChoice) else _chosen_tokens(plan, x.shape[1])
    except jax.errors.ConcretizationTypeError as error:
        raise SpecError("dispatch='reference' reads the plan in Python; call it outside jit and scan.") from error
    letters = "GSKE,GSK->GSE" if isinstance(plan, TokenChoice) else "GECS,GEC->GSE"
    weight = jnp.einsum(letters, served, plan.weight.astype(jnp.float32))
    groups, tokens, dim = x.shape
    experts = weight.shape[2]
    everything = Buffers(jnp.broadcast_to(x.reshape(1, groups * tokens, dim), (experts, groups * tokens, dim)))
    y = apply(params, everything).tokens.astype(jnp.float32).reshape(experts, groups, tokens, -1)
    return jnp.einsum("GSE,EGSD->GSD", weight, y).astype(x.dtype)


def _served_choices(plan: TokenChoice) -> Float[np.ndarray, "G S K E"]:
    """1 where choice K of token S is served by expert E, found by serving one choice after the other."""
    groups, tokens, choices = plan.expert.shape
    served = np.zeros((groups, tokens, choices, plan.num_experts), np.float32)
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
                    served[group, token, choice, expert] = 1
    return served


def _chosen_tokens(plan: ExpertChoice, tokens: int) -> Float[np.ndarray, "G E C S"]:
    """1 where slot C of expert E holds token S."""
    chosen = np.zeros((*plan.token.shape, tokens), np.float32)
    for place in np.ndindex(*plan.token.shape):
        chosen[place][int(plan.token[place])] = 1
    return chosen


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
