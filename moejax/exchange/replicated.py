"""Experts that are used most lie on several devices, which divide their rows.

Source: DeepSeek-V3 (2024), section 3.4 (redundant experts).
Deviations: copies are made in every call from the one set of parameters, so that checkpoints and optimisers know nothing of them,
    and the gradients of all copies are summed; rows are divided equally, not by the load within a node.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError
from moejax.core.plans import Plan
from moejax.dispatch.buffers import Apply
from moejax.exchange.contract import Devices
from moejax.exchange.divided_rows import DividedRows
from moejax.exchange.guests import with_known_guests
from moejax.exchange.on_devices import mesh_in_force
from moejax.placement.replicas import equal_shares


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replicated(DividedRows):
    """guests: for each device along `expert` the experts of others that it holds too, as `placement.replicas.copies_by_load` finds
    them from measured loads; (): no copies. The same for all layers of a model.

    group, wire_dtype, receive_factor: see `AllToAll`. Buffers of plans with a capacity move as there.
    """

    guests: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for device, own in enumerate(self.guests):
            if len(set(own)) < len(own) or min(own, default=0) < 0:
                raise SpecError(f"exchange.guests[{device}]={own} must name experts, each once.")

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """Raises SpecError as `AllToAll`, and for guests that do not fit the mesh or the experts."""
        mesh = mesh_in_force()
        if mesh is not None and self.guests:
            self._check(plan.num_experts, mesh.shape["expert"])
        return super().dispatch(strategy, plan, x, params, apply)

    def division(self, counts: Int[Array, "E"], num_devices: int) -> tuple[Int[Array, "E _"], Int[Array, "_ _"]]:
        experts = counts.shape[0]
        holds = np.arange(experts)[:, None] // (experts // num_devices) == np.arange(num_devices)[None, :]
        for device, own in enumerate(self.guests):
            holds[list(own), device] = True
        return equal_shares(counts, holds), jnp.asarray(self._table(num_devices))

    def bank(self, params: Any, guests: Int[Array, "_ _"], devices: Devices) -> Any:
        return with_known_guests(params, self._table(devices.size).tolist(), devices)

    def _table(self, num_devices: int) -> Int[np.ndarray, "_ _"]:
        """Guests [n places], -1 where a place stays empty."""
        places = max((len(own) for own in self.guests), default=0)
        padded = [[*own, *(-1,) * (places - len(own))] for own in self.guests or ((),) * num_devices]
        return np.asarray(padded, np.int32).reshape(num_devices, places)

    def _check(self, num_experts: int, num_devices: int) -> None:
        if len(self.guests) != num_devices:
            raise SpecError(
                f"exchange.guests names {len(self.guests)} devices, but mesh expert={num_devices}; give one tuple for each."
            )
        for device, own in enumerate(self.guests):
            for expert in own:
                if expert >= num_experts or expert // (num_experts // num_devices) == device:
                    why = f"there are {num_experts}" if expert >= num_experts else "it is at home there"
                    raise SpecError(f"exchange.guests[{device}] names expert {expert}, but {why}.")


EXAMPLES = (Replicated(guests=((3, 1), (3,), (0, 3), ())),)
