"""Every token travels to the devices of its experts, and its outputs travel back.

Buffers (plans with a capacity, expert choice, slot mixtures) are cut by expert and swapped whole. Ragged rows (dropless
token choice) are swapped as they are: counts first, so that each device knows how many rows it gets for which of its experts,
then the rows, which it sorts by expert. On TPU and GPU the ragged collective sends the rows alone; elsewhere, in two levels and in
narrow numbers they travel in chunks of equal size, and the result is the same.
Source: GShard (Lepikhin et al. 2020), section 3.3, for buffers; FastMoE (He et al. 2021), section 4.2, for exchanged counts;
    DeepSpeed-TED (Singh et al. 2023), section 5.1, for parts of tokens along `model`.
Deviations: along `model` devices send different parts of the width, not different tokens. A device keeps room for all rows of
    all n devices, n times its own, as nothing may be dropped.
"""

import dataclasses
import functools
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
from moejax.exchange.swap import WIRE_DTYPES, narrow_swap, swap


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllToAll:
    """group: neighbouring devices that exchange among themselves first, a divisor of mesh axis `expert`; None: flat.

    wire_dtype: numbers on the wire, 'bfloat16' or 'int8' (None: those of the tokens). Counts travel as int32.
    Merged experts need every expert's parameters: the bank is gathered.
    """

    plans: ClassVar[tuple[type, ...]] = ALL_PLANS

    group: int | None = None
    wire_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 1:
            raise SpecError(f"exchange.group={self.group} must be at least 1 (or None: no groups).")
        if self.wire_dtype is not None and self.wire_dtype not in WIRE_DTYPES:
            raise SpecError(
                f"exchange.wire_dtype={self.wire_dtype!r} is none.{did_you_mean(self.wire_dtype, WIRE_DTYPES)}"
            )

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
        rows = layout.tokens.shape[0]
        sizes = layout.group_sizes.reshape(devices.size, -1)
        received = swap(sizes, devices)  # [n, E/n] rows from each device for each own expert
        arrived = whole(self._there(own_part(layout.tokens, devices), sizes, received, devices), devices)
        order, place = _by_expert(received, rows)
        mine = Ragged(rows_of_tokens(arrived, order, place[:, None]), jnp.sum(received, axis=0, dtype=jnp.int32))
        y = computed(apply, params, mine, devices).tokens
        back = self._back(rows_of_tokens(y, place, order[:, None]), sizes, received, devices)
        return Ragged(whole(back, devices), layout.group_sizes)

    def _there(self, rows: Float[Array, "M _"], sizes: Array, received: Array, devices: Devices) -> Float[Array, "_ _"]:
        """Rows [M] to n chunks of room for M, chunk i from device i; zeros where no row came."""

        def in_equal_chunks(rows: Array, sizes: Array, received: Array) -> Array:
            del received
            slot, row = _slots(sizes, len(rows))
            chunks = rows_of_tokens(rows, row, slot[:, None]).reshape(devices.size, len(rows), -1)
            return self._wire(chunks, devices).reshape(row.size, -1)

        def as_they_are(rows: Array, sizes: Array, received: Array) -> Array:
            count, first = _runs(sizes)
            room = jnp.zeros((devices.size * len(rows), rows.shape[1]), rows.dtype)
            there = jnp.broadcast_to(devices.index().astype(jnp.int32) * len(rows), count.shape)
            came = _runs(received)[0]
            return jax.lax.ragged_all_to_all(rows, room, first, count, there, came, axis_name=devices.axis)

        return self._by_platform(in_equal_chunks, as_they_are, devices)(rows, sizes, received)

    def _back(self, slots: Float[Array, "_ _"], sizes: Array, received: Array, devices: Devices) -> Float[Array, "M _"]:
        """The way back of `_there`: n chunks of M to M rows."""
        n = devices.size
        rows = len(slots) // n

        def in_equal_chunks(slots: Array, sizes: Array, received: Array) -> Array:
            del received
            slot, row = _slots(sizes, rows)
            chunks = self._wire(slots.reshape(n, rows, -1), devices).reshape(n * rows, -1)
            return rows_of_tokens(chunks, slot, row[:, None])

        def as_they_are(slots: Array, sizes: Array, received: Array) -> Array:
            count, first = _runs(sizes)
            room = jnp.zeros((rows, slots.shape[1]), slots.dtype)
            chunk = jnp.arange(n, dtype=jnp.int32) * rows
            home, came = swap(first, devices), _runs(received)[0]
            return jax.lax.ragged_all_to_all(slots, room, chunk, came, home, count, axis_name=devices.axis)

        return self._by_platform(in_equal_chunks, as_they_are, devices)(slots, sizes, received)

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


def _runs(sizes: Int[Array, "_ _"]) -> tuple[Int[Array, "_"], Int[Array, "_"]]:
    """Of rows sorted by device: how many are for each, and where they begin."""
    count = jnp.sum(sizes, axis=1, dtype=jnp.int32)
    return count, (jnp.cumsum(count) - count).astype(jnp.int32)


def _slots(sizes: Int[Array, "_ _"], rows: int) -> tuple[Int[Array, "M"], Int[Array, "_"]]:
    """Of rows sorted by expert, and so by device: the slot of each row in n chunks of `rows`, and the row of each slot.

    Numbers out of range (n * rows, rows) mean 'none'.
    """
    count, first = _runs(sizes)
    ends = first + count
    row = jnp.arange(rows, dtype=jnp.int32)
    device = jnp.searchsorted(ends, row, side="right").astype(jnp.int32)
    slot = jnp.where(row < ends[-1], device * rows + row - jnp.take(first, device, mode="clip"), sizes.shape[0] * rows)
    place = jnp.broadcast_to(row, (sizes.shape[0], rows))
    found = jnp.where(place < count[:, None], first[:, None] + place, rows)
    return slot.astype(jnp.int32), found.reshape(-1).astype(jnp.int32)


def _by_expert(received: Int[Array, "_ _"], rows: int) -> tuple[Int[Array, "_"], Int[Array, "_"]]:
    """Of n chunks of `rows`, each sorted by expert: which slot comes i-th when all are, and the place of each slot.

    Places behind the last row, and slots without a row, get the number n * rows: 'none'.
    """
    n, experts = received.shape
    ends = jnp.cumsum(received, axis=1)
    slot = jnp.arange(rows, dtype=ends.dtype)
    expert = jax.vmap(lambda end: jnp.searchsorted(end, slot, side="right"))(ends).reshape(-1)
    order = jnp.argsort(expert, stable=True).astype(jnp.int32)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(n * rows, dtype=jnp.int32), unique_indices=True)
    owned = jnp.arange(n * rows) < jnp.sum(received)
    return jnp.where(owned, order, n * rows), jnp.where(expert < experts, place, n * rows)


EXAMPLES = (AllToAll(), AllToAll(group=2), AllToAll(wire_dtype="bfloat16"), AllToAll(group=2, wire_dtype="int8"))
