"""What a way across devices owes, and what it knows of the devices.

Inside of `on_devices` every array is a device's own part: the groups of its share of the batch, the experts of its share of
the bank. An exchange makes all experts look local: where tokens lie in buffers or rows for all E experts it takes an
`apply` for the own E/n and gives one for all; so every strategy of `dispatch` works with every exchange.
Source: ours.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from moejax.core.plans import Plan
from moejax.dispatch.buffers import Apply


@runtime_checkable
class Exchange(Protocol):
    """A way to experts on other devices. plans: the plan types that it serves."""

    plans: ClassVar[tuple[type, ...]]

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """As `dispatch.strategies.dispatch`, over the mesh in force; the same numbers whatever the mesh."""
        ...


def exchange_metrics(exchange: Exchange, strategy: str, plan: Plan) -> dict[str, Float[Array, ""]]:
    """What the exchange says of this plan on the mesh in force, by its `metrics` where it has them."""
    return exchange.metrics(strategy, plan) if hasattr(exchange, "metrics") else {}


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices among which experts are split: `size` along mesh axis `axis`, n in all comments.

    model: devices along mesh axis `model`, which hold the same tokens. splits_hidden: whether the experts' hidden widths are
    split over those, so that each computes a part of every sum; else each computes all of them.
    """

    size: int
    model: int = 1
    splits_hidden: bool = False
    axis: str = "expert"

    def index(self) -> Array:
        """The own number along the axis."""
        return jax.lax.axis_index(self.axis)
