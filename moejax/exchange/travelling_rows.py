"""Where rows lie on their way: in runs by device, in chunks of equal size, in a room that all devices' rows share.

Source: ours.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from moejax.exchange.contract import Devices
from moejax.exchange.swap import swap


class Way(NamedTuple):
    """Of one device: what it sends and what it gets.

    rows: M, how many rows it may have. room: how many it may get. Both are static.
    first [n]: where the own rows for each device begin; sent [n]: how many of them travel, from the first on.
    received [n V]: rows from each device for each of the V own experts, sorted by expert; in the room device by device.
    """

    rows: int
    room: int
    first: Int[Array, "_"]
    sent: Int[Array, "_"]
    received: Int[Array, "_ _"]

    @property
    def came(self) -> Int[Array, "_"]:
        """Rows from each device."""
        return jnp.sum(self.received, axis=1, dtype=jnp.int32)

    @property
    def came_first(self) -> Int[Array, "_"]:
        """Where in the room the rows of each device begin."""
        return starts(self.came)

    @property
    def chunk(self) -> int:
        """The most rows that one device can send to another."""
        return min(self.rows, self.room)


def way_of(sizes: Int[Array, "_ _"], rows: int, receive_factor: float | None, devices: Devices) -> Way:
    """The way of M own rows, sorted by device and there by expert, `sizes` [n V] of them.

    receive_factor: rows of room, as a multiple of M; None: n M, which always suffices. What finds no room does not travel: each
    device serves itself first, then the others in order from its own number on; of each those for its first experts first.
    """
    n = devices.size
    count = jnp.sum(sizes, axis=1, dtype=jnp.int32)
    room = room_of(rows, n, receive_factor)
    kept = sizes if room == n * rows else _within(sizes, count, room, devices)
    travelling = jnp.sum(kept, axis=1, dtype=jnp.int32)
    return Way(rows=rows, room=room, first=starts(count), sent=travelling, received=swap(kept, devices))


def room_of(rows: int, n: int, receive_factor: float | None) -> int:
    """Rows of room on a device whose own are `rows`, one of n."""
    return n * rows if receive_factor is None else min(n * rows, math.ceil(receive_factor * rows))


def starts(count: Int[Array, "_"]) -> Int[Array, "_"]:
    """Where runs of these lengths begin, one behind the other."""
    return (jnp.cumsum(count) - count).astype(jnp.int32)


def _within(sizes: Array, count: Array, room: int, devices: Devices) -> Int[Array, "_ _"]:
    """Of the rows for each device and expert, those for which it has room."""
    n = devices.size
    wanted = jax.lax.all_gather(count, devices.axis)  # [from, to]
    source, target = jnp.arange(n, dtype=jnp.int32)[:, None], jnp.arange(n, dtype=jnp.int32)[None, :]
    own_turn = (devices.index().astype(jnp.int32) - target) % n
    before = jnp.sum(jnp.where((source - target) % n < own_turn, wanted, 0), axis=0, dtype=jnp.int32)
    granted = jnp.clip(room - before, 0, count)
    ends = jnp.cumsum(sizes, axis=1, dtype=jnp.int32)
    return jnp.clip(granted[:, None] - (ends - sizes), 0, sizes).astype(jnp.int32)


def in_chunks(
    first: Int[Array, "_"], count: Int[Array, "_"], rows: int, chunk: int
) -> tuple[Int[Array, "_"], Int[Array, "_"]]:
    """Runs in an array of `rows` <-> n chunks of `chunk`, run i in chunk i: the slot of each row, and the row of each slot.

    Numbers out of range (n * chunk, rows) mean 'none': a row in no run, a slot behind a run.
    """
    n = first.shape[0]
    row = jnp.arange(rows, dtype=jnp.int32)
    run = (jnp.searchsorted(first, row, side="right") - 1).astype(jnp.int32)  # of empty runs before it, none
    place = row - jnp.take(first, run)
    slot = jnp.where(place < jnp.take(count, run), run * chunk + place, n * chunk)
    offset = jnp.broadcast_to(jnp.arange(chunk, dtype=jnp.int32)[None], (n, chunk))
    found = jnp.where(offset < count[:, None], first[:, None] + offset, rows)
    return slot, found.reshape(-1)


def by_expert(received: Int[Array, "_ _"], room: int) -> tuple[Int[Array, "_"], Int[Array, "_"]]:
    """Of rows sorted by device and there by expert: which comes i-th when all are sorted by expert, and the place of each.

    Places behind the last row, and rows that are none, get the number `room`: 'none'.
    """
    experts = received.shape[1]
    ends = jnp.cumsum(received.reshape(-1))
    row = jnp.arange(room, dtype=jnp.int32)
    run = jnp.searchsorted(ends, row.astype(ends.dtype), side="right")
    owned = row < ends[-1]
    expert = jnp.where(owned, run % experts, experts)
    order = jnp.argsort(expert, stable=True).astype(jnp.int32)  # rows that are none come last
    place = jnp.zeros_like(order).at[order].set(row, unique_indices=True)
    return jnp.where(owned, order, room), jnp.where(owned, place, room)
