"""Wires between devices in two levels, with the figures that are assumed of them and where these come from.

Inside of a group (the GPUs of a host, the chips of a slice) devices are joined closely; groups are joined by a network.
Source: ours; the figures' sources stand beside them. Latencies are assumptions of the right order, not measurements.
"""

import dataclasses
import math

from moejax.core.errors import SpecError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Level:
    """bandwidth: bytes/s that one device sends. latency: seconds per message. source: of both. torus: not a switch but a square
    torus of four links per device joins them.
    """

    bandwidth: float
    latency: float
    source: str
    torus: bool = False

    def spread_bandwidth(self, devices: int) -> float:
        """Bytes/s that one device sends where all `devices` exchange with all.

        Of a torus of N devices that send S bytes each, a quarter of N S crosses its middle each way, over 2 sqrt(N) links of a
        quarter of the bandwidth: S sqrt(N) / (2 bandwidth) seconds.
        """
        return self.bandwidth * (min(1.0, 2 / math.sqrt(devices)) if self.torus else 1.0)


@dataclasses.dataclass(frozen=True)
class Links:
    """group: devices that the inner level joins. flops: FLOP/s of a device in bfloat16, to compare with."""

    group: int
    inner: Level
    outer: Level
    flops: float

    def told(self) -> list[str]:
        """The assumed figures as lines of text."""
        levels = (("inside a group", self.inner), ("between groups", self.outer))
        return [
            f"{name}{f' of {self.group}' if level is self.inner else ''}: {level.bandwidth / 1e9:g} GB/s per device one way, "
            f"{1e6 * level.latency:g} us per message ({level.source})"
            for name, level in levels
        ]


LINKS = {
    "h100": Links(
        8,
        Level(450e9, 2e-6, "NVLink 4, H100 SXM data sheet: 900 GB/s both ways; latency assumed"),
        Level(50e9, 5e-6, "InfiniBand NDR, one 400 Gbit/s adapter per GPU, DGX H100 data sheet; latency assumed"),
        989e12,
    ),
    "v5e": Links(
        256,
        Level(200e9, 1e-6, "ICI, cloud.google.com/tpu/docs/v5e: 400 GB/s both ways, a 16 x 16 torus; latency assumed", torus=True),
        Level(3.125e9, 10e-6, "network of a pod of 256 chips, cloud.google.com/tpu/docs: 6.4 Tbit/s, from memory; latency assumed"),
        197e12,
    ),
}  # fmt: skip


def links_of(name: str) -> Links:
    """Raises SpecError for a machine that is not known."""
    if name not in LINKS:
        raise SpecError(f"links of {name!r} are not known.{did_you_mean(name, LINKS)} There are {', '.join(LINKS)}.")
    return LINKS[name]
