"""Times of functions that are run in turn, so that whatever else the machine does disturbs all of them alike.

Source: ours.
"""

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved(functions: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of `rounds` calls of each function, called in turn; every other round in reverse order.

    Each is called `warm_up` times before (compilation, caches). A call ends when its result is ready.
    """
    for function in functions.values():
        for _ in range(warm_up):
            jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            begin = time.perf_counter()
            jax.block_until_ready(functions[name]())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each, in milliseconds."""
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """Median over rounds of each function's time divided by that of `base` in the same round."""
    return {
        name: statistics.median(value / reference for value, reference in zip(values, seconds[base], strict=True))
        for name, values in seconds.items()
    }


def environment() -> dict[str, Any]:
    """What the times depend on: device, number of CPUs, versions, and the date in UTC."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "moejax", "numpy")
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
