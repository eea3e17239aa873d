"""Growth of router vectors and the order of pruning, by hand."""

import numpy as np

from moejax.routing.norm_growth import norm_growth, pruning_order


def test_growth_is_signed_and_the_least_goes_first():
    before = np.array([[3.0, 1.0, 0.0], [4.0, 0.0, 2.0]])
    after = np.array([[0.0, 3.0, 0.0], [1.0, 4.0, 2.0]])
    # lengths 5, 1, 2 become 1, 5, 2
    growth = norm_growth(before, after)
    assert growth.tolist() == [-4.0, 4.0, 0.0]
    assert pruning_order(growth).tolist() == [0, 2, 1]
    np.testing.assert_array_equal(pruning_order(np.stack([growth, -growth])), [[0, 2, 1], [1, 2, 0]])
