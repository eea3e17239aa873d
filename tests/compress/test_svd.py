"""Plain truncation, by hand."""

import numpy as np

from moejax.compress.svd import Svd


def test_by_hand():
    kernel = np.array([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    made = Svd().factorise(kernel, None)
    np.testing.assert_allclose(made.spectrum, [3, 2])
    first = made.u[:, :1] @ made.v[:1]
    np.testing.assert_allclose(first, [[0, 0], [3, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(Svd().error(kernel, first, None), 2)
