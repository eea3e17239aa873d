"""The state of a model's routers in three numbers: of every measure the layer where it is worst. Source: ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Worst = tuple[int, float]  # number of the block, counted from 0, and its value


@dataclasses.dataclass(frozen=True)
class Health:
    """None for what no router reports.

    dropped: largest fraction of choices that no expert serves. busiest: largest load of an expert, 1 being an even share.
    entropy: least mean entropy of a router's distribution over experts, nats.
    """

    dropped: Worst | None
    busiest: Worst | None
    entropy: Worst | None


def router_health(metrics: Mapping[str, Any]) -> Health | None:
    """From host values named 'block_03/load' [E], 'block_03/served_load' [E], 'block_03/dropped' and 'block_03/entropy'.

    A layer's load is what its router asks for, where it says so, else what its experts serve. None without any of these.
    """
    dropped = {block: float(value) for block, value in _of(metrics, "dropped").items()}
    loads = _of(metrics, "served_load") | _of(metrics, "load")
    entropy = {block: float(value) for block, value in _of(metrics, "entropy").items()}
    busiest = {block: busiest_share(value) for block, value in loads.items()}
    if not (dropped or busiest or entropy):
        return None
    return Health(_extreme(dropped, max), _extreme(busiest, max), _extreme(entropy, min))


def busiest_share(load: Any) -> float:
    """E max(load) / sum(load): 1 for even loads, E when one expert of E gets all; 0 when nothing was routed."""
    load = np.asarray(load, np.float64)
    total = float(load.sum())
    return float(load.max()) * load.size / total if total else 0.0


def _of(metrics: Mapping[str, Any], measure: str) -> dict[int, Any]:
    found = {}
    for name, value in metrics.items():
        block, _, rest = name.partition("/")
        if block.startswith("block_") and rest == measure:
            found[int(block.removeprefix("block_"))] = value
    return found


def _extreme(values: Mapping[int, float], which: Any) -> Worst | None:
    if not values:
        return None
    block = which(sorted(values), key=lambda one: values[one])
    return block, values[block]
