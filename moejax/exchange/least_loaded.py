"""Rows above what a device should have travel, with the weights of their expert, to the device that has least.

For dropless plans, whose loads may be as uneven as tokens like; buffers are equally long and move as `all_to_all` moves them.
Source: Nguyen et al. 2026, "Least-Loaded Expert Parallelism: Load Balancing An Imbalanced Mixture-of-Experts" (LLEP); the default
    numbers are those of its released script.
Deviations: see `placement.spilling`. Weights of all places are reduced and scattered, so that their bytes do not depend on how many
    experts spill: meant for few devices along `expert`, or large batches.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError
from moejax.core.plans import Plan
from moejax.exchange.contract import Devices
from moejax.exchange.divided_rows import DividedRows
from moejax.exchange.guests import with_guests
from moejax.exchange.on_devices import mesh_in_force
from moejax.exchange.row_counts import rows_by_source, travels_in_rows
from moejax.placement.spilling import spill


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeastLoaded(DividedRows):
    """threshold: largest load over the mean from which rows spill. capacity_factor: what a device should have at most, over the mean.

    min_rows: the smallest chunk worth the weights that travel with it. num_guests: experts of others that a device has room for.
    group, wire_dtype, receive_factor: see `AllToAll`; a receive_factor of the larger of threshold and capacity_factor suffices where chunks and places let all spill.
    Raises SpecError for numbers below 1.
    """

    threshold: float = 1.3
    capacity_factor: float = 1.0
    min_rows: int = 1024
    num_guests: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "capacity_factor", "min_rows", "num_guests"):
            value = getattr(self, name)
            if not (value >= 1 and math.isfinite(value)):
                raise SpecError(f"exchange.{name}={value} must be at least 1.")

    def metrics(self, strategy: str, plan: Plan) -> dict[str, Float[Array, ""]]:
        """Those of `AllToAll`, and 'peak_rows': the most rows that a device computes, over the mean of its ring."""
        found, mesh = super().metrics(strategy, plan), mesh_in_force()
        if mesh is None or not travels_in_rows(strategy, plan):
            return found
        loads = self.loads(rows_by_source(plan, mesh)).astype(jnp.float32)
        return found | {"peak_rows": jnp.max(jnp.max(loads, axis=1) / jnp.maximum(jnp.mean(loads, axis=1), 1.0))}

    def division(self, counts: Int[Array, "E"], num_devices: int) -> tuple[Int[Array, "E _"], Int[Array, "_ _"]]:
        planned = spill(
            counts,
            num_devices=num_devices,
            num_guests=self.num_guests,
            threshold=self.threshold,
            capacity_factor=self.capacity_factor,
            min_rows=self.min_rows,
        )
        return planned.rows, planned.guests

    def bank(self, params: Any, guests: Int[Array, "_ _"], devices: Devices) -> Any:
        return with_guests(params, guests, devices)


EXAMPLES = (LeastLoaded(min_rows=1), LeastLoaded(min_rows=2, num_guests=2, capacity_factor=1.25))
