"""What weights cost when some are leaves of other types than the model began with: parameters and FLOPs, by what each leaf says.

Source: ours.
"""

from typing import Any

import jax
import numpy as np

from moejax.core.contracts import Experts
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
    fresh = jax.eval_shape(lambda key: experts.init(key, num_experts, dim), jax.eval_shape(jax.random.key, 0))
    if _structure(fresh) == _structure(bank):
        return experts.flops_per_token(dim), 0
    leaves = [node for node in _nodes(bank) if is_leaf(node)]
    once = sum(leaf.flops_once() for leaf in leaves if hasattr(leaf, "flops_once"))
    return sum(_row_flops(leaf) for leaf in leaves), num_experts * once


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
