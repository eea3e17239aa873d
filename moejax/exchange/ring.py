"""Tokens go round the devices along `expert`, one block at a time, and gather their outputs on the way.

The same bytes as `all_gather`, but a device never holds more than two blocks of tokens, and each hop can hide behind the
computation of the block before it.
Source: ours; rings of `ppermute` as in collective matrix products (Wang et al. 2023, "Overlap communication with dependent
    computation via decomposition").
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float

from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.dispatch import strategies
from moejax.dispatch.buffers import Apply
from moejax.exchange.all_gather import own_share
from moejax.exchange.contract import Devices
from moejax.exchange.gathered_bank import gathered
from moejax.exchange.on_devices import mesh_in_force, on_devices, own_part, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
    """Merged experts need every expert's parameters: the bank is gathered."""

    plans: ClassVar[tuple[type, ...]] = (TokenChoice, ExpertChoice, SlotMix, Merge)

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """Raises SpecError as `on_devices`."""
        mesh = mesh_in_force()
        if mesh is None:
            return strategies.dispatch(strategy, plan, x, params, apply)
        return on_devices(functools.partial(_local, strategy), plan, x, params, apply, mesh=mesh)


def _local(strategy: str, plan: Plan, x: Array, params: Any, apply: Apply, devices: Devices) -> Array:
    if isinstance(plan, Merge):
        return gathered(strategy, plan, x, params, apply, devices)
    n = devices.size
    onward = functools.partial(jax.lax.ppermute, axis_name=devices.axis, perm=[(i, (i + 1) % n) for i in range(n)])
    block = own_part(x, devices)
    y = own_share(strategy, plan, x, params, apply, devices)
    for _ in range(n - 1):
        plan, block, y = jax.tree.map(onward, plan), onward(block), onward(y)
        y = y + own_share(strategy, plan, whole(block, devices), params, apply, devices)
    return whole(onward(y) if n > 1 else y, devices)


EXAMPLES = (Ring(),)
