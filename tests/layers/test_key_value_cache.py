"""The ring of slots: which position lies where, filled at once or written one by one."""

import jax.numpy as jnp
import numpy as np

from moejax.layers.key_value_cache import fill, slot_positions, write


def test_slot_positions_by_hand():
    # Four slots. After position 5: slots 0 and 1 hold 4 and 5, slots 2 and 3 still 2 and 3. After 1: slots 2, 3 hold nothing.
    held = slot_positions(jnp.array([5, 1], jnp.int32), 4)
    np.testing.assert_array_equal(held, [[4, 5, 2, 3], [0, 1, -2, -1]])


def test_filling_equals_writing_one_by_one():
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(3, 2, 7, 5)), jnp.float32)
    lengths = np.array([7, 2, 4])
    for slots in (3, 4, 7, 9):
        filled = np.asarray(fill(x, jnp.asarray(lengths, jnp.int32), slots))
        held = np.asarray(slot_positions(jnp.asarray(lengths - 1, jnp.int32), slots))
        ring = jnp.zeros((3, 2, slots, 5))
        for t in range(7):
            written = write(ring, x[:, :, t : t + 1], jnp.full((3,), t, jnp.int32))
            ring = jnp.where(jnp.asarray(t < lengths)[:, None, None, None], written, ring)
        for b in range(3):
            there = held[b] >= 0
            assert there.sum() == min(lengths[b], slots)
            np.testing.assert_array_equal(filled[b][:, there], np.asarray(ring)[b][:, there])
