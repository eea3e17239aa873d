"""The measured row, by hand."""

import numpy as np
import pytest

from moejax.placement.measured import halves, placement_row


def test_by_hand():
    # Four experts on two devices; tokens that chose 0 choose 2 next, and those of 3 choose 1: all change devices in order, none placed
    # by affinity. Layer 0: 3 and 1 rows; layer 1: 1 and 3.
    choices = np.array([[[0], [0], [0], [3]], [[2], [2], [2], [1]]])
    row = placement_row(choices, choices, 4, 2)
    assert (row["hops"], row["hops_placed"]) == (1.0, 0.0)
    assert row["peak"] == pytest.approx(1.5)  # three rows where two are the mean
    # Layer 0: a copy of expert 0 on device 1 gives 1.5 and 1.5 + 1, then one of expert 3 on device 0 makes both 2.
    assert row["peak_copies"] == pytest.approx(1.0)
    assert row["peak_spilled"] == pytest.approx(1.0)  # one row goes: two and two


def test_one_layer_has_no_hops():
    choices = np.array([[[0], [1]]])
    assert placement_row(choices, choices, 2, 2)["hops"] is None


def test_halves():
    choices = np.arange(6).reshape(1, 6, 1)
    seen, held_out = halves(choices, 2)
    assert seen[0, :, 0].tolist() == [0, 1, 4, 5] and held_out[0, :, 0].tolist() == [2, 3]
