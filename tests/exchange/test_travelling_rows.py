"""Where rows go, by hand."""

import jax.numpy as jnp

from moejax.exchange.contract import Devices
from moejax.exchange.travelling_rows import by_expert, in_chunks, room_of, starts, way_of


def test_chunks_by_hand():
    # Seven rows: two for device 0, four for device 1, the last for nobody; chunks of 7.
    slot, row = in_chunks(jnp.array([0, 2], jnp.int32), jnp.array([2, 4], jnp.int32), 7, 7)
    assert slot.tolist() == [0, 1, 7, 8, 9, 10, 14]
    assert row.tolist() == [0, 1, 7, 7, 7, 7, 7, 2, 3, 4, 5, 7, 7, 7]


def test_chunks_with_gaps_and_empty_runs_by_hand():
    # Three devices: two rows for the first of which one travels, none for the second, three for the third; chunks of 3.
    slot, row = in_chunks(jnp.array([0, 2, 2], jnp.int32), jnp.array([1, 0, 3], jnp.int32), 5, 3)
    assert slot.tolist() == [0, 9, 6, 7, 8]
    assert row.tolist() == [0, 5, 5, 5, 5, 5, 2, 3, 4]


def test_received_rows_by_hand():
    # From device 0 come 1 row for the first own expert and 2 for the second, from device 1 come 2 and 0; room for 6.
    order, place = by_expert(jnp.array([[1, 2], [2, 0]], jnp.int32), 6)
    assert order.tolist() == [0, 3, 4, 1, 2, 6]  # first expert: rows 0, 3, 4; second: 1, 2; 6 is none
    assert place.tolist() == [0, 3, 4, 1, 2, 6]


def test_room_by_hand():
    assert [room_of(10, 4, factor) for factor in (None, 1.0, 1.25, 3.99, 9.0)] == [40, 10, 13, 40, 40]
    assert starts(jnp.array([2, 0, 3], jnp.int32)).tolist() == [0, 2, 2]


def test_one_device_always_has_room():
    way = way_of(jnp.array([[3, 2]], jnp.int32), 6, 1.0, Devices(size=1))
    assert (way.rows, way.room, way.chunk) == (6, 6, 6)
    assert way.sent.tolist() == [5] and way.received.tolist() == [[3, 2]] and way.came_first.tolist() == [0]
