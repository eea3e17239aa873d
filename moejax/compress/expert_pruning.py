"""Experts given up: their kernels, biases and router columns leave the parameters, and the model's spec counts those that stay.

Source: Chowdhury et al. 2024 ("A provably effective method for pruning experts in fine-tuned sparse mixture-of-experts"), section 3.
Deviations: the columns of pruned experts leave the router, so that its softmax is over those that stay; the authors' code keeps them
    at the end of the kernel.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.tree import flatten, map_with_names

_ROUTER = re.compile(r"blocks/(\d+)/moe/router/kernel")
_LEAF = re.compile(r"blocks/(\d+)/moe/(router|experts)/.*")


def router_kernels(params: Any) -> dict[str, np.ndarray]:
    """Of every MoE layer its linear router's kernel [D E], by the layer's number as its name has it ('02').

    Raises SpecError where no layer has one.
    """
    found = {}
    for name, leaf in flatten(split_segments(params)).items():
        if match := _ROUTER.fullmatch(name):
            found[match[1]] = np.asarray(leaf)
    if not found:
        raise SpecError("no layer has a linear router with a kernel; experts are told apart by the router's columns.")
    return found


def pruned(
    model: Any, params: Any, state: Any, kept: Mapping[str, Sequence[int] | Int[np.ndarray, "_"]]
) -> tuple[Any, Any]:
    """The model with fewer experts, and its parameters, one tree per layer. kept: of every MoE layer the experts that stay, in the
    order that they get; as many in every layer.

    Raises SpecError for a layer that is not named, unequal numbers, an expert twice or out of range, fewer experts than a token
    selects, and for a model with router state or shared weights, of which nobody can tell whose they are.
    """
    kernels = router_kernels(params)
    if sorted(kept) != sorted(kernels):
        raise SpecError(f"kept names the layers {sorted(kept)}; the MoE layers are {sorted(kernels)}.")
    num_experts = next(iter(kernels.values())).shape[1]
    counts = {len(experts) for experts in kept.values()}
    for layer, experts in kept.items():
        if (
            len(counts) > 1
            or len(set(map(int, experts))) != len(experts)
            or not set(experts) <= set(range(num_experts))
        ):
            raise SpecError(
                f"kept[{layer!r}]={list(map(int, experts))} must be different experts from 0 to {num_experts - 1}, as many as in "
                "every other layer."
            )
    if any(np.size(leaf) for leaf in flatten(state).values()):
        raise SpecError("the router's state belongs to all experts; prune a model without balancing bias.")

    def sliced(name: str, leaf: Any) -> Any:
        match = _LEAF.fullmatch(name)
        if match is None:
            return leaf
        axis = leaf.ndim - 1 if match[2] == "router" else 0
        if leaf.shape[axis] != num_experts:
            raise SpecError(f"{name} {leaf.shape} has no axis of {num_experts} experts; prune before compressing.")
        return leaf.take(np.asarray(kept[match[1]]), axis=axis)

    router = dataclasses.replace(model.moe.router, num_experts=counts.pop())
    smaller = dataclasses.replace(model, moe=dataclasses.replace(model.moe, router=router))
    return smaller, map_with_names(sliced, split_segments(params))
