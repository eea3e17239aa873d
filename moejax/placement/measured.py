"""What placements do to recorded routing: chosen on some sequences, measured on others.

Source: ours; the comparison on held-out tokens is that of ExFlow (Yao et al. 2024).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from moejax.placement.affinity import hops, in_order, place, transitions
from moejax.placement.replicas import copies_by_load, device_loads
from moejax.placement.spilling import spill


def halves(choices: Int[np.ndarray, "L N K"], tokens_per_sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """The choices of every other sequence, and those of the rest."""
    sequence = np.arange(choices.shape[1]) // tokens_per_sequence
    return choices[:, sequence % 2 == 0], choices[:, sequence % 2 == 1]


def placement_row(
    seen: Int[np.ndarray, "L N K"],
    held_out: Int[np.ndarray, "L N2 K"],
    num_experts: int,
    num_devices: int,
    *,
    num_guests: int = 1,
) -> dict[str, Any]:
    """Hops and peak loads of `held_out` on so many devices, with what was placed by `seen`.

    hops, hops_placed: fractions of pairs of choices in following layers that change devices, experts in order and by affinity (None
    with one layer). peak: rows of the fullest device over the mean, mean over the layers; peak_copies: with `num_guests` copies on each
    device by the load of `seen`; peak_spilled: with as many places for what spills, planned on `held_out` itself.
    """
    counts, new = transitions(seen, num_experts), transitions(held_out, num_experts)
    order = in_order(len(seen), num_experts, num_devices)
    hop = (hops(new, order), hops(new, place(counts, num_devices))) if len(seen) > 1 else (None, None)
    peaks = [
        _peaks(*loads, num_devices, num_guests)
        for loads in zip(_loads(seen, num_experts), _loads(held_out, num_experts), strict=True)
    ]
    peak, copied, spilled = (float(value) for value in np.mean(peaks, axis=0))
    row = {"devices": num_devices, "guests": num_guests, "hops": hop[0], "hops_placed": hop[1]}
    return row | {"peak": peak, "peak_copies": copied, "peak_spilled": spilled}


def _loads(choices: np.ndarray, num_experts: int) -> list[np.ndarray]:
    return [np.bincount(layer[layer >= 0], minlength=num_experts) for layer in choices]


def _peaks(seen: np.ndarray, load: np.ndarray, num_devices: int, num_guests: int) -> tuple[float, float, float]:
    """Rows of the fullest device over the mean: at home, with copies, with what spills."""
    home = np.arange(len(load))[:, None] // (len(load) // num_devices) == np.arange(num_devices)[None]
    holds = home.copy()
    for device, own in enumerate(copies_by_load(seen.astype(np.float64), num_devices, num_guests)):
        holds[list(own), device] = True
    planned = spill(
        jnp.asarray(load, jnp.int32), num_devices=num_devices, num_guests=num_guests, threshold=1.0, capacity_factor=1.0,
        min_rows=1,
    )  # fmt: skip
    loads = (device_loads(load, home), device_loads(load, holds), np.asarray(planned.rows).sum(axis=0))
    first, second, third = (float(own.max() / max(own.mean(), 1e-9)) for own in loads)
    return first, second, third
