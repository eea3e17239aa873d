"""Experts away from home: their weights come to a device for one call, and rows are divided between it and the others.

Gradients of such weights go home by themselves, where those of all copies are summed: what brought them there is linear.
Source: ours.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from moejax.exchange.contract import Devices
from moejax.linear.expert_axis import map_expert_arrays


def with_guests(params: Any, guests: Int[Array, "_ _"], devices: Devices) -> Any:
    """The own bank of E/n experts and, behind them, the guests [n places] of this device; zeros in empty places.

    Which experts travel is known only as the call runs: every device offers places for all devices, filled where it is the home.
    Wire: (n - 1) / n of the n * places experts, whatever travels, and the same for the gradients.
    """

    def fetch(array: Array) -> Array:
        own = guests - devices.index().astype(jnp.int32) * len(array)
        mine = (own >= 0) & (own < len(array))
        offered = jnp.take(array, jnp.clip(own, 0, len(array) - 1), axis=0)  # [n places ...]
        offered = jnp.where(mine.reshape(mine.shape + (1,) * (array.ndim - 1)), offered, jnp.zeros_like(offered))
        came = jax.lax.psum_scatter(offered, devices.axis, scatter_dimension=0)
        return jnp.concatenate([array, came], axis=0)

    return map_expert_arrays(params, fetch)


def with_known_guests(params: Any, guests: Sequence[Sequence[int]], devices: Devices) -> Any:
    """`with_guests` where the places are known before anything is traced (-1: empty): only weights that move are sent.

    Wire: at most one expert per device and round; rounds: places, times the most copies of experts of one device.
    """
    n = devices.size

    def fetch(array: Array) -> Array:
        came = []
        for place in zip(*guests, strict=True):
            total = jnp.zeros_like(array[0])
            for moves in _rounds(
                [(expert // len(array), device, expert) for device, expert in enumerate(place) if expert >= 0]
            ):
                sent = np.zeros(n, np.int32)
                for home, _, expert in moves:
                    sent[home] = expert % len(array)
                own = jnp.take(array, jnp.asarray(sent)[devices.index()], axis=0)
                total = total + jax.lax.ppermute(own, devices.axis, perm=[(home, device) for home, device, _ in moves])
            came.append(total)
        return jnp.concatenate([array, *(total[None] for total in came)], axis=0)

    return map_expert_arrays(params, fetch)


def _rounds(moves: Sequence[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Moves (from, to, what) in rounds in which nobody sends twice; everybody gets at most once in all."""
    rounds: list[list[tuple[int, int, int]]] = []
    for move in moves:
        free = next((own for own in rounds if all(move[0] != other[0] for other in own)), None)
        if free is None:
            rounds.append([move])
        else:
            free.append(move)
    return rounds


def places_of_rows(
    counts: Int[Array, "_ E"], rows: Int[Array, "E _"], guests: Int[Array, "_ _"], num_rows: int, own: Int[Array, ""]
) -> Int[Array, "M"]:
    """For each of the M own rows, sorted by expert, the place where it is computed: device * V + number among its V experts.

    counts [n E]: rows of each device for each expert. rows [E n]: how many of them each device computes; the first device
    gets the first. Rows of nobody get n * V.
    """
    n, experts = counts.shape
    width = experts // n + guests.shape[1]
    before = jnp.cumsum(counts, axis=0, dtype=jnp.int32)[own] - counts[own]
    ends = jnp.cumsum(counts[own], dtype=jnp.int32)
    row = jnp.arange(num_rows, dtype=jnp.int32)
    expert = jnp.searchsorted(ends, row, side="right").astype(jnp.int32)
    owned, expert = expert < experts, jnp.minimum(expert, experts - 1)
    rank = row - jnp.take(ends - counts[own], expert) + jnp.take(before, expert)
    device_ends = jnp.take(jnp.cumsum(rows, axis=1, dtype=jnp.int32), expert, axis=0)  # [M n]
    device = jnp.sum((rank[:, None] >= device_ends).astype(jnp.int32), axis=1)
    number = jnp.take(_numbers(experts, guests).reshape(-1), expert * n + jnp.minimum(device, n - 1))
    return jnp.where(owned, device * width + number, n * width)


def _numbers(experts: int, guests: Int[Array, "_ _"]) -> Int[Array, "E _"]:
    """The number of each expert among those of each device: the own ones first, then the guests; 0 where it is not there."""
    n = guests.shape[0]
    here = experts // n
    expert, device = jnp.arange(experts, dtype=jnp.int32)[:, None], jnp.arange(n, dtype=jnp.int32)[None, :]
    is_guest = guests[None] == expert[:, :, None]  # [E n places]
    place = jnp.argmax(is_guest, axis=2).astype(jnp.int32) if guests.shape[1] else jnp.zeros((experts, n), jnp.int32)
    return jnp.where(expert // here == device, expert % here, here + place)


def sorted_by_place(
    place: Int[Array, "M"], num_places: int
) -> tuple[Int[Array, "M"], Int[Array, "M"], Int[Array, "_"]]:
    """Which row comes i-th when all are sorted by place, where each row then lies, and how many rows each place has."""
    order = jnp.argsort(place, stable=True).astype(jnp.int32)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=jnp.int32), unique_indices=True)
    return order, back, jnp.zeros((num_places,), jnp.int32).at[place].add(1, mode="drop")
