"""Fingerprints: the same for every way an array lies, another for every changed, moved or cut one."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.train.fingerprints import fingerprints


def by_hand(array):
    """The sum of hashes, element by element, with Python's own integers."""
    total, mask = 0, 2**64 - 1
    for place, word in enumerate(array.reshape(-1).view(f"u{array.dtype.itemsize}").tolist()):
        mixed = word ^ (place * 0x9E3779B97F4A7C15 & mask)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            mixed = (mixed ^ (mixed >> 33)) * factor & mask
        total += mixed ^ (mixed >> 33)
    return f"{total & mask:016x}"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.int32, np.uint8, np.float64, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0, 3)])
def test_sums_of_hashed_elements(dtype, shape):
    array = (np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)
    assert fingerprints([array]) == [by_hand(np.asarray(array))]
    if dtype is not np.float64:
        assert fingerprints([jnp.asarray(array)]) == fingerprints([array])


def test_every_changed_bit_and_every_swap_is_seen():
    array = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    whole = fingerprints([array])[0]
    for place in range(array.size):
        for bit in (0, 13, 31):
            other = array.copy()
            other.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert fingerprints([other])[0] != whole
    assert fingerprints([array[::-1]])[0] != whole
    assert fingerprints([array.T])[0] != whole
    assert fingerprints([array[:, [1, 0, 2, 3, 4, 5]]])[0] != whole


def test_large_arrays_are_read_in_pieces():
    array = np.arange(3 * 2**18 + 5, dtype=np.int32).reshape(-1, 1)
    rows = np.array(
        [
            int(fingerprints([np.where(np.arange(len(array))[:, None] == i, array, 0)])[0], 16)
            for i in (0, 2**18, 2**18 + 1)
        ],
        np.uint64,
    )
    empty = int(fingerprints([np.zeros_like(array)])[0], 16)
    only = np.zeros_like(array)
    for row in (0, 2**18, 2**18 + 1):
        only[row] = array[row]
    together = (sum(int(row) - empty for row in rows) + empty) % 2**64
    assert int(fingerprints([only])[0], 16) == together
