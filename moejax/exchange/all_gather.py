"""Every device gets the tokens of all devices along `expert`, computes what its own experts owe them, and all parts are summed.

Cheap to plan and right for few devices: it sends every token to all of them, however few experts it chose.
Source: ours; PPMoE (Chen et al. 2023) does so where tokens are there already.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.core.plans import Plan
from moejax.dispatch import strategies
from moejax.dispatch.buffers import Apply
from moejax.exchange.across import ALL_PLANS, across
from moejax.exchange.contract import Devices
from moejax.exchange.on_devices import computed, own_part, whole
from moejax.exchange.own_experts import own_experts


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllGather:
    """Merged experts need every expert's parameters: the bank is gathered."""

    plans: ClassVar[tuple[type, ...]] = ALL_PLANS

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """Raises SpecError as `on_devices`."""
        return across(_local, strategy, plan, x, params, apply)


def _local(strategy: str, plan: Plan, x: Array, params: Any, apply: Apply, devices: Devices) -> Array:
    gather = functools.partial(jax.lax.all_gather, axis_name=devices.axis, axis=0, tiled=True)
    plans, tokens = jax.tree.map(gather, plan), whole(gather(own_part(x, devices)), devices)
    y = own_share(strategy, plans, tokens, params, apply, devices)
    return whole(jax.lax.psum_scatter(y, devices.axis, scatter_dimension=0, tiled=True), devices)


def own_share(
    strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply, devices: Devices
) -> Float[Array, "G S _"]:
    """What the own experts owe these tokens, of it the own part of the width."""
    count = plan.num_experts // devices.size
    mine = own_experts(plan, devices.index() * count, count)

    def parts(params: Any, layout: Layout) -> Layout:
        return computed(apply, params, layout, devices)

    return strategies.dispatch(strategy, mine, x, params, parts)


EXAMPLES = (AllGather(),)
