"""Copies of hot experts, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.placement.replicas import copies_by_load, device_loads, equal_shares


def test_by_hand():
    # Four experts on two devices: loads 9 and 3. A copy of expert 0 on device 1 halves its 8: 5 and 7; then expert 2, of 3 rows,
    # would be copied to device 0: 6.5 and 5.5.
    assert copies_by_load([8, 1, 0, 3], 2, 1) == ((3,), (0,))
    holds = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
    np.testing.assert_allclose(device_loads(np.array([8.0, 1, 0, 3]), holds), [6.5, 5.5])


def test_copies_that_do_not_help_are_left_out():
    assert copies_by_load([4, 4, 4, 4], 2, 2) == ((), ())
    # The hottest expert on all four devices is perfect balance.
    assert copies_by_load([8, 0, 0, 0], 4, 1) == ((), (0,), (0,), (0,))


def test_more_places_never_hurt():
    draw = np.random.default_rng(0)
    for _ in range(20):
        load = draw.pareto(1.0, size=12)
        peaks = []
        for places in range(4):
            holds = np.arange(12)[:, None] // 3 == np.arange(4)
            for device, own in enumerate(copies_by_load(load, 4, places)):
                assert len(own) <= places and not holds[list(own), device].any()
                holds[list(own), device] = True
            peaks.append(device_loads(load, holds).max())
        assert peaks[0] >= max(peaks) and peaks[-1] < peaks[0]


def test_equal_shares_by_hand():
    holds = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)
    assert equal_shares(jnp.array([5, 4, 8], jnp.int32), holds).tolist() == [[3, 0, 2], [0, 4, 0], [3, 3, 2]]


def test_what_does_not_fit():
    with pytest.raises(SpecError, match="3 devices do not divide the 4 experts"):
        copies_by_load([1, 2, 3, 4], 3, 1)
    with pytest.raises(SpecError, match="finite and not negative"):
        copies_by_load([1, -2], 2, 1)
