"""What every exchange by hand begins with: is there a mesh at all, and do parameters move or tokens.

Source: ours.
"""

from typing import Any

from jaxtyping import Array, Float

from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.dispatch import strategies
from moejax.dispatch.buffers import Apply
from moejax.exchange.contract import Devices
from moejax.exchange.gathered_bank import gathered
from moejax.exchange.on_devices import mesh_in_force, on_devices

ALL_PLANS = (TokenChoice, ExpertChoice, SlotMix, Merge)


def across(
    local: Any, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
) -> Float[Array, "G S F"]:
    """`local(strategy, plan, x, params, apply, devices)` on every device of the mesh in force.

    Without a mesh the strategy alone; for merged experts, which need every expert's parameters, the gathered bank.
    Raises SpecError as `on_devices`.
    """
    mesh = mesh_in_force()
    if mesh is None:
        return strategies.dispatch(strategy, plan, x, params, apply)
    way = gathered if isinstance(plan, Merge) else local

    def own(plan: Plan, x: Array, params: Any, apply: Apply, devices: Devices) -> Array:
        return way(strategy, plan, x, params, apply, devices)

    return on_devices(own, plan, x, params, apply, mesh=mesh)
