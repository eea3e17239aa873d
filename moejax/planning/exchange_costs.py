"""What one MoE layer's exchange costs on how many devices, by strategy: bytes and messages by level, and the time they need.

Devices 0 to n - 1 along the expert axis lie in groups of `group` neighbours. Bytes are those that one device sends in the
forward pass, there and back, on average; of a ring over several groups, those of the device at a group's end.
Source: ours; the time of a message of S bytes as latency + S / bandwidth is Hockney 1994. Bytes are those of
    moejax/exchange, which tests count in compiled programs.
"""

import dataclasses
from collections.abc import Callable

from moejax.core.errors import SpecError, did_you_mean
from moejax.planning.links import Links

INDEX_BYTES, WEIGHT_BYTES, SCALE_BYTES = 4, 4, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """What one device brings to the exchange.

    tokens: T of its own. choices: K. experts: E of all devices. slots: rows of its buffers for all experts. width: D.
    number_bytes: of a number of a token. latent: R, the width at which latent experts' tokens travel.
    """

    tokens: int
    choices: int
    experts: int
    slots: int
    width: int
    number_bytes: int = 2
    latent: int | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """Movements that begin together; the next phase waits for them. Bytes and messages that one device sends, by level.

    spread: all exchange with all, and not with neighbours. loaded: the bytes follow the load of experts, those here are of an even one.
    """

    inner: int | float = 0.0
    outer: int | float = 0.0
    inner_messages: int = 0
    outer_messages: int = 0
    spread: bool = True
    loaded: bool = False

    def seconds(self, links: Links, devices: int, skew: float) -> float:
        """skew: load of the busiest device over the mean, which all wait for."""
        bytes_of = skew if self.loaded else 1.0
        group = min(links.group, devices)
        inner = links.inner.spread_bandwidth(group) if self.spread else links.inner.bandwidth
        return max(
            self.inner_messages * links.inner.latency + bytes_of * self.inner / inner,
            self.outer_messages * links.outer.latency + bytes_of * self.outer / links.outer.bandwidth,
        )


Phases = tuple[Phase, ...]


def all_to_all(layer: Layer, n: int, group: int) -> Phases:
    """Buffers of a fixed capacity, flat."""
    return _flat(layer.slots * layer.width * layer.number_bytes, n, group) * 2


def two_level(layer: Layer, n: int, group: int) -> Phases:
    """The same, first among the neighbours of a group, then between groups in fewer and larger messages."""
    size, g = layer.slots * layer.width * layer.number_bytes, min(group, n)
    inside = Phase(inner=size * (g - 1) / g, inner_messages=g - 1)
    between = Phase(outer=size * (n - g) / n, outer_messages=n // g - 1)
    return (inside, between) * 2


def int8(layer: Layer, n: int, group: int) -> Phases:
    """Flat, numbers in a byte each and a scale per row."""
    return _flat(layer.slots * layer.width, n, group) * 2 + _flat(layer.slots * SCALE_BYTES, n, group) * 2


def latent(layer: Layer, n: int, group: int) -> Phases:
    """Flat, at the width of latent experts. Raises SpecError for a layer without one."""
    if layer.latent is None:
        raise SpecError("strategy 'latent' needs the width of the latent tokens; give Layer.latent.")
    return _flat(layer.slots * layer.latent * layer.number_bytes, n, group) * 2


def dropless(layer: Layer, n: int, group: int) -> Phases:
    """Counts of rows, and then the rows alone; as many as experts are loaded."""
    rows = layer.tokens * layer.choices * layer.width * layer.number_bytes
    travel = tuple(dataclasses.replace(phase, loaded=True) for phase in _flat(rows, n, group))
    return _flat(layer.experts * INDEX_BYTES, n, group) + travel * 2


def all_gather(layer: Layer, n: int, group: int) -> Phases:
    """All tokens and their plans to all devices, sums of outputs back to each."""
    tokens = layer.tokens * layer.width * layer.number_bytes
    plan = layer.tokens * layer.choices * (INDEX_BYTES + WEIGHT_BYTES)
    return _gathered(tokens + plan, n, group) + _gathered(tokens, n, group)[::-1]


def ring(layer: Layer, n: int, group: int) -> Phases:
    """Blocks of tokens, their plans and outputs from neighbour to neighbour; the outputs one hop more, home."""
    tokens = layer.tokens * layer.width * layer.number_bytes
    plan = layer.tokens * layer.choices * (INDEX_BYTES + WEIGHT_BYTES)
    if n == 1:
        return ()
    size, hops = (n - 1) * (tokens + plan) + n * tokens, n
    if n > group:
        return (Phase(outer=size, outer_messages=hops, spread=False),)
    return (Phase(inner=size, inner_messages=hops, spread=False),)


STRATEGIES: dict[str, Callable[[Layer, int, int], Phases]] = {
    strategy.__name__: strategy for strategy in (all_to_all, two_level, dropless, int8, latent, all_gather, ring)
}


def phases(strategy: str, layer: Layer, n: int, group: int) -> Phases:
    """The exchange among n devices. Raises SpecError for an unknown strategy, and where groups do not divide the devices."""
    if strategy not in STRATEGIES:
        raise SpecError(f"strategy {strategy!r} is unknown.{did_you_mean(strategy, STRATEGIES)}")
    if n < 1 or group < 1 or n % min(group, n):
        raise SpecError(f"groups of {group} do not divide {n} devices; choose a multiple of {group}, or fewer.")
    return STRATEGIES[strategy](layer, n, group)


def sent(found: Phases) -> tuple[int | float, int | float]:
    """Bytes of one device inside its group, and to other groups."""
    return sum(phase.inner for phase in found), sum(phase.outer for phase in found)


def seconds(found: Phases, links: Links, n: int, *, skew: float = 1.0) -> float:
    """Time of the exchange, nothing else running: a phase takes as long as its slower level."""
    return sum(phase.seconds(links, n, skew) for phase in found)


def _flat(size: int | float, n: int, group: int) -> Phases:
    """One exchange of all with all, of `size` bytes on each device."""
    g = min(group, n)
    return (Phase(size * (g - 1) / n, size * (n - g) / n, g - 1, n - g),) if n > 1 else ()


def _gathered(size: int | float, n: int, group: int) -> Phases:
    """Blocks of `size` bytes to everybody: between groups among devices of one place, then inside."""
    g = min(group, n)
    between = Phase(outer=size * (n // g - 1), outer_messages=n // g - 1, spread=False)
    inside = Phase(inner=size * (n - n // g), inner_messages=g - 1, spread=False)
    return (between, inside)
