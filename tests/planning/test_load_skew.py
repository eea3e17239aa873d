"""The busiest device, from recorded choices."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.routing_traces import RoutingTrace
from moejax.planning.load_skew import quantiles, skew

# Layer 1: experts 0 to 3 get 4, 2, 1, 1 of 8 choices. Layer 2: two each.
CHOICES = np.array([[0, 0, 0, 0, 1, 1, 2, 3], [0, 1, 2, 3, 3, 2, 1, 0]], np.int32)[:, :, None]
TRACE = RoutingTrace(
    choices=CHOICES, gates=np.ones_like(CHOICES, np.float32), num_experts=4, tokens_per_sequence=1, blocks=("a", "b")
)


def test_by_hand():
    # An expert per device: 4/8 of the load against a mean of 1/4, and even. Two: 6/8 against 1/2, and even.
    assert skew(TRACE, 4) == pytest.approx((2 + 1) / 2)
    assert skew(TRACE, 2) == pytest.approx((1.5 + 1) / 2)
    assert skew(TRACE, 1) == 1.0
    with pytest.raises(SpecError, match="3 devices do not divide 4 experts"):
        skew(TRACE, 3)


def test_more_experts_are_loaded_alike():
    # Quantiles of 1, 1, 2, 4 at eight places: the ends as they are, in between on straight lines.
    wanted = np.array([1, 1, 1, 1.25, 1.75, 2.5, 3.5, 4])
    np.testing.assert_allclose(quantiles(np.array([4, 2, 1, 1]) / 8, 8), wanted / wanted.sum(), rtol=1e-12)
    assert skew(TRACE, 8, 8) == pytest.approx((4 * 8 / wanted.sum() + 1) / 2)
    even = skew(TRACE, 8, 64)
    assert 1 < even < skew(TRACE, 64, 64)  # eight experts on a device average out
    assert even == skew(TRACE, 8, 64) != skew(TRACE, 8, 64, seed=1)
