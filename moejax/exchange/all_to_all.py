"""Every token travels to the devices of its experts, and its outputs travel back.

Buffers (plans with a capacity, expert choice, slot mixtures) are cut by expert and swapped whole. Ragged rows (dropless
token choice) are swapped as they are: counts first, so that each device knows how many rows it gets for which of its experts,
then the rows, which it sorts by expert. On TPU and GPU the ragged collective sends the rows alone; elsewhere, in two levels and in
narrow numbers they travel in chunks of equal size, and the result is the same.
Source: GShard (Lepikhin et al. 2020), section 3.3, for buffers; FastMoE (He et al. 2021), section 4.2, for exchanged counts;
    DeepSpeed-TED (Singh et al. 2023), section 5.1, for parts of tokens along `model`.
Deviations: along `model` devices send different parts of the width, not different tokens. A device keeps room for all rows of
    all n devices, n times its own, as nothing may be dropped; less with `receive_factor`.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.core.plans import Plan
from moejax.dispatch import strategies
from moejax.dispatch.buffers import Apply
from moejax.dispatch.choices import rows_of_tokens
from moejax.exchange.across import ALL_PLANS, across
from moejax.exchange.contract import Devices
from moejax.exchange.on_devices import computed, mesh_in_force, own_part, whole
from moejax.exchange.row_counts import rows_by_source, rows_of_device, travels_in_rows
from moejax.exchange.swap import WIRE_DTYPES, narrow_swap, swap
from moejax.exchange.travelling_rows import Way, by_expert, in_chunks, room_of, way_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllToAll:
    """group: neighbouring devices that exchange among themselves first, a divisor of mesh axis `expert`; None: flat.

    wire_dtype: numbers on the wire, 'bfloat16' or 'int8' (None: those of the tokens). Counts travel as int32.
    receive_factor: rows that a device has room for, as a multiple of the rows of its own tokens; None: of all devices' rows. Only
        rows of ragged plans are bounded by it. Rows without room give zeros, and `metrics` counts them.
    Merged experts need every expert's parameters: the bank is gathered.
    """

    plans: ClassVar[tuple[type, ...]] = ALL_PLANS

    group: int | None = None
    wire_dtype: str | None = None
    receive_factor: float | None = None

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 1:
            raise SpecError(f"exchange.group={self.group} must be at least 1 (or None: no groups).")
        if self.wire_dtype is not None and self.wire_dtype not in WIRE_DTYPES:
            raise SpecError(
                f"exchange.wire_dtype={self.wire_dtype!r} is none.{did_you_mean(self.wire_dtype, WIRE_DTYPES)}"
            )
        if self.receive_factor is not None and not (self.receive_factor >= 1 and math.isfinite(self.receive_factor)):
            raise SpecError(
                f"exchange.receive_factor={self.receive_factor} must be at least 1 (as many rows as a device has on average), or "
                "None: room for all."
            )

    def metrics(self, strategy: str, plan: Plan) -> dict[str, Float[Array, ""]]:
        """{'beyond_room': fraction of the served choices that find no room}, on a mesh with `receive_factor`; else {}."""
        mesh = mesh_in_force()
        if mesh is None or self.receive_factor is None or not travels_in_rows(strategy, plan):
            return {}
        loads = self.loads(rows_by_source(plan, mesh))
        room = room_of(rows_of_device(plan, mesh), mesh.shape["expert"], self.receive_factor)
        lost = jnp.sum(jnp.maximum(loads - room, 0)).astype(jnp.float32)
        return {"beyond_room": lost / jnp.maximum(jnp.sum(loads), 1).astype(jnp.float32)}

    def loads(self, counts: Int[Array, "_ _ E"]) -> Int[Array, "_ _"]:
        """Rows that each device of each ring computes, from those of each device for each expert."""
        rings, n, _ = counts.shape
        return jnp.sum(counts.reshape(rings, n, n, -1), axis=(1, 3), dtype=jnp.int32)

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """Raises SpecError as `on_devices`, and where `group` does not divide the devices along `expert`."""
        mesh = mesh_in_force()
        if mesh is not None and self.group is not None and mesh.shape["expert"] % self.group:
            raise SpecError(
                f"exchange.group={self.group} does not divide mesh expert={mesh.shape['expert']}; choose a divisor."
            )
        return across(self._local, strategy, plan, x, params, apply)

    def _local(self, strategy: str, plan: Plan, x: Array, params: Any, apply: Apply, devices: Devices) -> Array:
        return strategies.dispatch(strategy, plan, x, params, functools.partial(self._everywhere, apply, devices))

    def _everywhere(self, apply: Apply, devices: Devices, params: Any, layout: Layout) -> Layout:
        """Tokens for all experts through the experts of all devices."""
        if isinstance(layout, Buffers):
            return self._buffers(apply, devices, params, layout)
        return self._rows(apply, devices, params, layout)

    def _buffers(self, apply: Apply, devices: Devices, params: Any, layout: Buffers) -> Buffers:
        experts, slots, _ = layout.tokens.shape
        n = devices.size
        chunks = self._swap(layout.tokens.reshape(n, experts // n, slots, -1), devices)
        mine = jnp.swapaxes(chunks, 0, 1).reshape(experts // n, n * slots, -1)
        y = computed(apply, params, Buffers(mine), devices).tokens
        chunks = jnp.swapaxes(y.reshape(experts // n, n, slots, -1), 0, 1)
        return Buffers(self._swap_back(chunks, devices).reshape(experts, slots, -1))

    def _rows(self, apply: Apply, devices: Devices, params: Any, layout: Ragged) -> Ragged:
        sizes = layout.group_sizes.reshape(devices.size, -1)
        return Ragged(self.travel(layout.tokens, sizes, params, apply, devices), layout.group_sizes)

    def travel(
        self, rows: Float[Array, "M D"], sizes: Int[Array, "_ _"], params: Any, apply: Apply, devices: Devices
    ) -> Float[Array, "M D"]:
        """Rows through the experts of all devices and back; inside of `on_devices`.

        sizes [n V]: of the rows, sorted by device and there by expert, those for each of the V experts of each. Rows of nobody come
        last; they, and those without room, come back as zeros.
        """
        way = way_of(sizes, len(rows), self.receive_factor, devices)
        order, place = by_expert(way.received, way.room)
        arrived = whole(self._there(own_part(rows, devices), way, order, place, devices), devices)
        mine = Ragged(arrived, jnp.sum(way.received, axis=0, dtype=jnp.int32))
        y = computed(apply, params, mine, devices).tokens
        return whole(self._back(y, way, order, place, devices), devices)

    def _there(
        self, rows: Float[Array, "M _"], way: Way, order: Array, place: Array, devices: Devices
    ) -> Float[Array, "_ _"]:
        """Own rows [M] to rows from all devices [room], sorted by expert; zeros where no row came."""

        def in_equal_chunks(rows: Array) -> Array:
            slot, row = in_chunks(way.first, way.sent, way.rows, way.chunk)
            chunks = rows_of_tokens(rows, row, slot[:, None]).reshape(devices.size, way.chunk, -1)
            sorted_slot, sorted_place = self._sorted_slots(way, order, place)
            return rows_of_tokens(self._wire(chunks, devices).reshape(row.size, -1), sorted_slot, sorted_place[:, None])

        def as_they_are(rows: Array) -> Array:
            room = jnp.zeros((way.room, rows.shape[1]), rows.dtype)
            there = swap(way.came_first, devices)
            arrived = jax.lax.ragged_all_to_all(
                rows, room, way.first, way.sent, there, way.came, axis_name=devices.axis
            )
            return rows_of_tokens(arrived, order, place[:, None])

        return self._by_platform(in_equal_chunks, as_they_are, devices)(rows)

    def _back(
        self, rows: Float[Array, "_ _"], way: Way, order: Array, place: Array, devices: Devices
    ) -> Float[Array, "M _"]:
        """The way back of `_there`."""

        def in_equal_chunks(rows: Array) -> Array:
            sorted_slot, sorted_place = self._sorted_slots(way, order, place)
            chunks = rows_of_tokens(rows, sorted_place, sorted_slot[:, None]).reshape(devices.size, way.chunk, -1)
            slot, row = in_chunks(way.first, way.sent, way.rows, way.chunk)
            return rows_of_tokens(self._wire(chunks, devices).reshape(row.size, -1), slot, row[:, None])

        def as_they_are(rows: Array) -> Array:
            room = jnp.zeros((way.rows, rows.shape[1]), rows.dtype)
            arrived, home = rows_of_tokens(rows, place, order[:, None]), swap(way.first, devices)
            return jax.lax.ragged_all_to_all(
                arrived, room, way.came_first, way.came, home, way.sent, axis_name=devices.axis
            )

        return self._by_platform(in_equal_chunks, as_they_are, devices)(rows)

    def _sorted_slots(self, way: Way, order: Array, place: Array) -> tuple[Int[Array, "_"], Int[Array, "_"]]:
        """Of rows sorted by expert the slots in chunks by device, and the place of each slot among them."""
        slot, row = in_chunks(way.came_first, way.came, way.room, way.chunk)
        slots = jnp.take(slot, order, mode="fill", fill_value=row.size)
        return slots, jnp.take(place, row, mode="fill", fill_value=way.room)

    def _by_platform(self, equal: Any, ragged: Any, devices: Devices) -> Any:
        """The ragged collective on a TPU or GPU, for one level of wide numbers; else equal chunks, with the same numbers."""
        if self.group is not None or self.wire_dtype is not None or devices.size == 1:
            return equal
        return lambda *args: jax.lax.platform_dependent(*args, default=equal, tpu=ragged, cuda=ragged)

    def _swap(self, chunks: Float[Array, "_ ... D"], devices: Devices) -> Float[Array, "_ ... D"]:
        return whole(self._wire(own_part(chunks, devices), devices), devices)

    def _swap_back(self, chunks: Float[Array, "_ ... _"], devices: Devices) -> Float[Array, "_ ... D"]:
        return whole(self._wire(chunks, devices), devices)

    def _wire(self, chunks: Float[Array, "_ ... D"], devices: Devices) -> Float[Array, "_ ... D"]:
        if self.wire_dtype is None:
            return swap(chunks, devices, self.group)
        return narrow_swap(chunks, devices, self.group, self.wire_dtype)


EXAMPLES = (
    AllToAll(),
    AllToAll(group=2),
    AllToAll(wire_dtype="bfloat16"),
    AllToAll(group=2, wire_dtype="int8"),
    AllToAll(receive_factor=3.0),
)
