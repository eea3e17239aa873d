"""Every device gets the whole bank: for plans that mix parameters.

Source: ours.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from moejax.core.plans import Plan
from moejax.dispatch import strategies
from moejax.dispatch.buffers import Apply
from moejax.exchange.contract import Devices
from moejax.exchange.on_devices import computed, whole
from moejax.sharding.rules import Rules, param_specs


def gathered(
    strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply, devices: Devices
) -> Float[Array, "G S F"]:
    """The strategy on the own tokens with the experts of all devices. Wire: (n-1)/n of the bank, forward and backward."""
    specs = param_specs({"experts": params}, Rules())["experts"]

    def gather(array: Array, spec: Any) -> Array:
        return jax.lax.all_gather(array, devices.axis, axis=0, tiled=True) if devices.axis in spec else array

    bank = jax.tree.map(gather, params, specs) if devices.size > 1 else params

    def parts(params: Any, layout: Any) -> Any:
        out = computed(apply, params, layout, devices)
        return type(out)(**{**vars(out), "tokens": whole(out.tokens, devices)})

    return strategies.dispatch(strategy, plan, x, bank, parts)
