"""An exchange in which the rows of one expert may be computed on several devices.

Source: ours.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from moejax.core.layouts import Ragged
from moejax.dispatch.buffers import Apply
from moejax.dispatch.choices import rows_of_tokens
from moejax.exchange.all_to_all import AllToAll
from moejax.exchange.contract import Devices
from moejax.exchange.guests import places_of_rows, sorted_by_place


@dataclasses.dataclass(frozen=True, kw_only=True)
class DividedRows(AllToAll):
    """`AllToAll` but for ragged rows: those of an expert are divided between its home and the devices where it is a guest."""

    def division(self, counts: Int[Array, "E"], num_devices: int) -> tuple[Int[Array, "E _"], Int[Array, "_ _"]]:
        """Rows [E n] of each expert on each device, from all rows of each; and the guests [n places] of each device, -1: none."""
        raise NotImplementedError

    def bank(self, params: Any, guests: Int[Array, "_ _"], devices: Devices) -> Any:
        """The own experts, and behind them the guests."""
        raise NotImplementedError

    def loads(self, counts: Int[Array, "_ _ E"]) -> Int[Array, "_ _"]:
        """Rows that each device of each ring computes, from those of each device for each expert."""
        total = jnp.sum(counts, axis=1, dtype=jnp.int32)
        return jax.vmap(lambda own: jnp.sum(self.division(own, counts.shape[1])[0], axis=0, dtype=jnp.int32))(total)

    def _rows(self, apply: Apply, devices: Devices, params: Any, layout: Ragged) -> Ragged:
        if devices.size == 1:
            return super()._rows(apply, devices, params, layout)
        counts = jax.lax.all_gather(layout.group_sizes, devices.axis)
        rows, guests = self.division(jnp.sum(counts, axis=0, dtype=jnp.int32), devices.size)
        places = (counts.shape[1] // devices.size + guests.shape[1]) * devices.size
        place = places_of_rows(counts, rows, guests, len(layout.tokens), devices.index())
        order, back, sizes = sorted_by_place(place, places)
        tokens = rows_of_tokens(layout.tokens, order, back[:, None])
        bank = self.bank(params, guests, devices)
        y = self.travel(tokens, sizes.reshape(devices.size, -1), bank, apply, devices)
        return Ragged(rows_of_tokens(y, back, order[:, None]), layout.group_sizes)
