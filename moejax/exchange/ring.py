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

from moejax.core.plans import Plan
from moejax.dispatch.buffers import Apply
from moejax.exchange.across import ALL_PLANS, across
from moejax.exchange.all_gather import own_share
from moejax.exchange.contract import Devices
from moejax.exchange.on_devices import own_part, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
    """Merged experts need every expert's parameters: the bank is gathered."""

    plans: ClassVar[tuple[type, ...]] = ALL_PLANS

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """Raises SpecError as `on_devices`."""
        return across(_local, strategy, plan, x, params, apply)


def _local(strategy: str, plan: Plan, x: Array, params: Any, apply: Apply, devices: Devices) -> Array:
    n = devices.size
    onward = functools.partial(jax.lax.ppermute, axis_name=devices.axis, perm=[(i, (i + 1) % n) for i in range(n)])
    block = own_part(x, devices)
    y = own_share(strategy, plan, x, params, apply, devices)
    for _ in range(n - 1):
        plan, block, y = jax.tree.map(onward, plan), onward(block), onward(y)
        y = y + own_share(strategy, plan, whole(block, devices), params, apply, devices)
    return whole(onward(y) if n > 1 else y, devices)


EXAMPLES = (Ring(),)
