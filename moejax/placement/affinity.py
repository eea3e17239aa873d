"""Experts placed where the tokens of the experts before them already are.

Source: Yao et al. 2024, "Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference" (ExFlow): the
    affinity P(expert of the next layer | expert), and the integer programme over devices with equally many experts each.
Deviations: the programme is solved exactly by going through the layers with all balanced placements of one layer (small cases), or
    layer by layer: with its neighbours fixed, a layer is a linear assignment. Context-coherent execution, which needs the context
    of a token on all devices, is not here: tokens still come home after each layer.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from moejax.core.errors import SpecError

MAX_STATES = 3000  # balanced placements of one layer that `place_exactly` goes through


def transitions(choices: Int[np.ndarray, "L N K"], num_experts: int) -> Int[np.ndarray, "_ E E"]:
    """How many pairs of choices of one token go from each expert of a layer to each of the next; -1 is no choice."""
    counts = np.zeros((choices.shape[0] - 1, num_experts, num_experts), np.int64)
    for layer, (here, there) in enumerate(itertools.pairwise(choices)):
        pairs = np.stack(np.broadcast_arrays(here[:, :, None], there[:, None, :]), axis=-1).reshape(-1, 2)
        made = pairs[(pairs >= 0).all(axis=1)]
        np.add.at(counts[layer], (made[:, 0], made[:, 1]), 1)
    return counts


def affinity(counts: Int[np.ndarray, "_ E E"]) -> Float[np.ndarray, "_ E E"]:
    """P(expert of the next layer | expert); rows without a token are zero."""
    total = counts.sum(axis=-1, keepdims=True)
    return counts / np.maximum(total, 1)


def hops(counts: Int[np.ndarray, "_ E E"], device: Int[np.ndarray, "L E"]) -> float:
    """Fraction of the pairs of choices whose two experts lie on different devices. device: of each expert of each layer."""
    stays = sum(count[here[:, None] == there[None, :]].sum() for count, here, there in _steps(counts, device))
    return 1.0 - float(stays) / max(int(counts.sum()), 1)


def in_order(num_layers: int, num_experts: int, num_devices: int) -> Int[np.ndarray, "L E"]:
    """Experts on devices in the order of their numbers, in every layer."""
    _check(num_experts, num_devices)
    return np.tile(np.arange(num_experts) // (num_experts // num_devices), (num_layers, 1))


def place(
    counts: Int[np.ndarray, "_ E E"], num_devices: int, *, restarts: int = 32, seed: int = 0
) -> Int[np.ndarray, "L E"]:
    """Device of each expert of each layer, equally many on each, so that few pairs of choices change devices.

    From several beginnings (the order of numbers, and random ones) layer after layer is placed best for its neighbours as they are,
    until nothing improves; the best result counts. Raises SpecError when the devices do not divide the experts.
    """
    num_layers, num_experts = counts.shape[0] + 1, counts.shape[1]
    draw = np.random.default_rng(seed)
    best = start = in_order(num_layers, num_experts, num_devices)
    for turn in range(restarts):
        device = start if turn == 0 else np.stack([start[0], *(draw.permutation(own) for own in start[1:])])
        device = _improved(counts, device.copy(), num_devices)
        if _kept(counts, device) > _kept(counts, best):
            best = device
    return best


def place_exactly(counts: Int[np.ndarray, "_ E E"], num_devices: int) -> Int[np.ndarray, "L E"]:
    """The best placement there is. Raises SpecError where one layer has more than MAX_STATES balanced placements."""
    num_experts = counts.shape[1]
    _check(num_experts, num_devices)
    size = num_experts // num_devices
    states = math.factorial(num_experts) // math.factorial(size) ** num_devices
    if states > MAX_STATES:
        raise SpecError(
            f"{num_experts} experts on {num_devices} devices can be placed in {states} ways, more than {MAX_STATES}; use `place`."
        )
    ways = (
        np.array(sorted(set(itertools.permutations(np.arange(num_experts) // size))))
        if states > 1
        else in_order(1, num_experts, 1)
    )
    value, back = np.zeros(len(ways)), []
    for count in counts:
        # On device d, of all ways of this layer and the next: counts from experts there to experts there.
        here = np.stack([ways == device for device in range(num_devices)]).astype(np.float64)  # [n ways E]
        gain = np.einsum("nae,ef,nbf->ab", here, count.astype(np.float64), here, optimize=True)
        total = value[:, None] + gain
        back.append(total.argmax(axis=0))
        value = total.max(axis=0)
    last = [int(value.argmax())]
    for came in reversed(back):
        last.append(int(came[last[-1]]))
    return ways[last[::-1]]


def order_of(device: Int[np.ndarray, "E"]) -> list[int]:
    """Experts sorted by device: the new number i is the old expert order[i], at home on device i // (E / n)."""
    return [int(expert) for expert in np.argsort(device, kind="stable")]


def _improved(counts: np.ndarray, device: np.ndarray, num_devices: int) -> np.ndarray:
    size, layers = counts.shape[1] // num_devices, len(device)
    seats = np.repeat(np.arange(num_devices), size)
    before = -1.0
    while (now := _kept(counts, device)) > before:
        before = now
        for layer in (*range(layers), *reversed(range(layers - 1))):
            gain = np.zeros((counts.shape[1], num_devices))
            if layer > 0:
                gain += counts[layer - 1].T @ _one_hot(device[layer - 1], num_devices)
            if layer < layers - 1:
                gain += counts[layer] @ _one_hot(device[layer + 1], num_devices)
            expert, seat = linear_sum_assignment(gain[:, seats], maximize=True)
            device[layer, expert] = seats[seat]
    return device


def _kept(counts: np.ndarray, device: np.ndarray) -> float:
    return 1.0 - hops(counts, device)


def _one_hot(device: np.ndarray, num_devices: int) -> np.ndarray:
    return (device[:, None] == np.arange(num_devices)[None]).astype(np.float64)


def _steps(counts: np.ndarray, device: np.ndarray) -> Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return list(zip(counts, device[:-1], device[1:], strict=True))


def _check(num_experts: int, num_devices: int) -> None:
    if num_devices < 1 or num_experts % num_devices:
        raise SpecError(f"{num_devices} devices do not divide the {num_experts} experts; choose a divisor.")
