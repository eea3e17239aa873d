"""Rows of overloaded devices, planned onto the least loaded ones.

Source: Nguyen et al. 2026, "Least-Loaded Expert Parallelism: Load Balancing An Imbalanced Mixture-of-Experts" (LLEP): the threshold, the capacity
    and the smallest chunk worth sending with its weights.
Deviations: the order of moves is ours: one chunk at a time, from the most loaded device, as large as excess, expert and free room
    allow, to the least loaded device that may take so much. Chunks below `min_rows` are filled up to it where there are
    rows and room. A device has a fixed number of places for weights of others.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Spill(NamedTuple):
    """rows [E n]: how many rows of each expert each device computes. guests [n places]: the experts whose weights travel to it,
    -1 where a place stays empty. Expert e is at home on device e // (E / n).
    """

    rows: Int[Array, "E _"]
    guests: Int[Array, "_ _"]


def at_home(counts: Int[Array, "E"], num_devices: int) -> Int[Array, "E _"]:
    """All rows with their experts."""
    home = jnp.arange(counts.shape[0]) // (counts.shape[0] // num_devices)
    return jnp.where(home[:, None] == jnp.arange(num_devices)[None, :], counts[:, None], 0)


def limit(counts: Int[Array, "E"], num_devices: int, capacity_factor: float) -> Int[Array, ""]:
    """Rows that a device should have at most: capacity_factor times the mean over devices, rounded up."""
    share = capacity_factor * jnp.sum(counts).astype(jnp.float32) / num_devices
    return jnp.ceil(share * (1 - 1e-6)).astype(jnp.int32)


def spill(
    counts: Int[Array, "E"],
    *,
    num_devices: int,
    num_guests: int,
    threshold: float,
    capacity_factor: float,
    min_rows: int,
) -> Spill:
    """Who computes `counts` rows of each expert. Integers only, the same on every device that knows the counts.

    Nothing moves while the most loaded device has at most `threshold` times the mean. Else rows above `limit` move, with their
    experts, until no device is above it or none of them can give away `min_rows` rows. A device that gets rows never ends above
    the limit. num_guests: places for weights of others on each device.
    """
    n = num_devices
    rows = at_home(counts, n)
    load = jnp.sum(rows, axis=0)
    uneven = jnp.max(load).astype(jnp.float32) * n > threshold * jnp.sum(load).astype(jnp.float32)
    most = limit(counts, n, capacity_factor)
    guests = jnp.full((n, num_guests), -1, jnp.int32)
    stuck = jnp.broadcast_to(~uneven, (n,))

    def goes_on(state: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        rows, _, stuck = state
        return jnp.any(~stuck & (jnp.sum(rows, axis=0) > most))

    def move(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rows, guests, stuck = state
        return _move(rows, guests, stuck, most, min_rows)

    rows, guests, _ = jax.lax.while_loop(goes_on, move, (rows, guests, stuck))
    return Spill(rows, guests)


def _move(rows: Array, guests: Array, stuck: Array, most: Array, min_rows: int) -> tuple[Array, Array, Array]:
    """One chunk from the most loaded device that is not stuck; or that device is stuck from now on."""
    experts, n = rows.shape
    load = jnp.sum(rows, axis=0)
    source = jnp.argmax(jnp.where(stuck, -1, load))
    own = jnp.arange(experts) // (experts // n) == source
    holds = jnp.any(guests[None] == jnp.arange(experts)[:, None, None], axis=2)  # [E n]
    free = jnp.any(guests == -1, axis=1)
    wish = jnp.maximum(load[source] - most, min_rows)
    amount = jnp.minimum(jnp.minimum(wish, rows[:, source])[:, None], (most - load)[None, :])
    amount = jnp.where((holds | free[None]) & own[:, None], amount, 0)  # the source itself has no room
    best = jnp.max(amount)
    quietest = jnp.where(amount == best, load[None], jnp.iinfo(jnp.int32).max)
    expert, target = jnp.unravel_index(jnp.argmin(quietest), rows.shape)
    moves = best >= max(min_rows, 1)
    taken = jnp.where(moves, best, 0)
    place = jnp.argmax(guests[target] == -1)
    settled = jnp.where(moves & ~holds[expert, target], expert.astype(jnp.int32), guests[target, place])
    rows = rows.at[expert, source].add(-taken).at[expert, target].add(taken)
    return rows, guests.at[target, place].set(settled), stuck.at[source].set(stuck[source] | ~moves)
