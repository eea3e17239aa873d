"""Copies of the experts that are used most, on devices that are used least.

Source: DeepSeek-V3 (2024), section 3.4 (redundant experts, chosen by measured load); the greedy choice is ours.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from moejax.core.errors import SpecError


def copies_by_load(
    load: Sequence[float | int] | np.ndarray, num_devices: int, num_guests: int
) -> tuple[tuple[int, ...], ...]:
    """For each device the experts of others that it holds too, `num_guests` places on each; fewer where copies do not help.

    load [E]: rows, or shares, of each expert. An expert's rows are split equally among its copies. Each next copy goes to the expert
    whose copies have most rows each, on the device with the least load that lacks it. Copies that would not lower the largest
    load of a device are left out.
    Raises SpecError when the devices do not divide the experts, or there are negative loads.
    """
    loads = np.asarray(load, np.float64)
    if loads.size % num_devices or loads.size == 0:
        raise SpecError(f"{num_devices} devices do not divide the {loads.size} experts; choose a divisor.")
    if (loads < 0).any() or not np.isfinite(loads).all():
        raise SpecError("loads of experts must be finite and not negative.")
    holds = np.arange(loads.size)[:, None] // (loads.size // num_devices) == np.arange(num_devices)[None]
    guests: list[list[int]] = [[] for _ in range(num_devices)]
    best, kept = device_loads(loads, holds).max(), [0] * num_devices
    while (chosen := _next_copy(loads, holds, [len(own) < num_guests for own in guests])) is not None:
        expert, device = chosen
        holds[expert, device] = True
        guests[device].append(expert)
        if (now := device_loads(loads, holds).max()) < best * (1 - 1e-9):
            best, kept = now, [len(own) for own in guests]
    return tuple(tuple(own[:count]) for own, count in zip(guests, kept, strict=True))


def device_loads(load: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """Load of each device [n] when each expert's is split equally among those that hold it [E n]."""
    return (load / holds.sum(axis=1)) @ holds


def equal_shares(counts: Int[Array, "E"], holds: np.ndarray) -> Int[Array, "E _"]:
    """Rows of each expert on each device, as equal as whole numbers allow; the first holders get the odd ones."""
    copies, turn = holds.sum(axis=1).astype(np.int32), (np.cumsum(holds, axis=1) - 1).astype(np.int32)
    odd = jnp.asarray(turn) < (counts % copies)[:, None]
    shares = (counts // copies)[:, None] + odd.astype(jnp.int32)
    return jnp.where(jnp.asarray(holds), shares, 0).astype(jnp.int32)


def _next_copy(load: np.ndarray, holds: np.ndarray, free: list[bool]) -> tuple[int, int] | None:
    loads = device_loads(load, holds)
    each = load / holds.sum(axis=1)
    for expert in np.argsort(-each, kind="stable"):
        possible = [device for device in np.flatnonzero(~holds[expert]) if free[device]]
        if possible and each[expert] > 0:
            return int(expert), int(min(possible, key=lambda device: loads[device]))
    return None
