"""What weights cost when some are leaves of other types than the model began with: parameters and FLOPs, by what each leaf says.

Source: ours.
"""

import functools
from typing import Any

import jax
import numpy as np

from moejax.core.contracts import Experts, enter, leave
from moejax.core.layouts import Buffers
from moejax.evals.flops import count_flops
from moejax.layers.moe import MoE
from moejax.linear.contract import is_leaf
from moejax.linear.dense import Dense
from moejax.linear.expert_axis import shared_fields

Shapes = Any  # a tree of jax.ShapeDtypeStruct, or of arrays


def num_params(tree: Shapes) -> int:
    """Numbers that count: of leaves that say it (padding left out), of other arrays all. Leaves without a layer axis."""
    return sum(_leaf_params(node) for node in _nodes(tree))


def activated_params(bank: Shapes, *, experts_per_token: float, num_experts: int) -> int:
    """What a token meets: all arrays that the experts share, and its experts' part of the others."""
    total = 0.0
    for node in _nodes(bank):
        size, experts = _leaf_params(node), num_experts
        shared = sum(_size(getattr(node, field)) for field in shared_fields(node))
        if hasattr(node, "index"):  # merged experts: all are 'shared', and a token meets as many as before
            shared, experts = 0, len(set(node.index))
        total += shared + (size - shared) * min(1.0, experts_per_token / experts)
    return round(total)


def bank_flops(experts: Experts, bank: Shapes, *, num_experts: int, dim: int) -> tuple[int, int]:
    """(per row, once per call): by the bank's own formula where its leaves are those it began with, else by the leaves'."""
    leaves = [node for node in _nodes(bank) if is_leaf(node)]
    once = num_experts * sum(leaf.flops_once() for leaf in leaves if hasattr(leaf, "flops_once"))
    fresh = jax.eval_shape(lambda key: experts.init(key, num_experts, dim), jax.eval_shape(jax.random.key, 0))
    if _structure(fresh) == _structure(bank):
        return experts.flops_per_token(dim), once
    return sum(_row_flops(leaf) for leaf in leaves), once


def passage_flops(moe: MoE, bank: Shapes, x: Any) -> int:
    """What the bank's `enter` and `leave` take for all tokens of x [B T D]; 0 for a bank without them."""
    entered = jax.eval_shape(functools.partial(enter, moe.experts), bank, x)
    slots = jax.ShapeDtypeStruct((moe.router.num_experts, 1, entered.shape[-1]), x.dtype)
    width = jax.eval_shape(lambda p, tokens: moe.experts.apply(p, Buffers(tokens)).tokens, bank, slots).shape[-1]
    moved = jax.ShapeDtypeStruct((*x.shape[:-1], width), x.dtype)
    before = count_flops(functools.partial(enter, moe.experts), bank, x)
    return before + count_flops(functools.partial(leave, moe.experts), bank, moved)


def _structure(bank: Shapes) -> Any:
    return jax.tree.structure(bank), [leaf.shape for leaf in jax.tree.leaves(bank)]


def _nodes(tree: Shapes) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=is_leaf)


def _leaf_params(node: Any) -> int:
    return node.num_params() if hasattr(node, "num_params") else _size(node)


def _row_flops(leaf: Any) -> int:
    if isinstance(leaf, Dense):
        return 2 * int(np.prod(leaf.kernel.shape[-2:]))
    return leaf.flops_per_row()


def _size(tree: Shapes) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
