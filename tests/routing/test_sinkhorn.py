"""Two tokens that both prefer expert 0: balance sends the one with less to lose to expert 1."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.sinkhorn import SinkhornRouter

# One-hot tokens, so that the kernel holds the logits: exp(logits) = [[8, 1], [2, 1]].
TOKENS = jnp.eye(2)[None]
PARAMS = {"kernel": jnp.log(jnp.asarray([[8.0, 1.0], [2.0, 1.0]]))}


# The balanced plan is [[2/3, 1/3], [1/3, 2/3]] (worked out in test_transport.py), so token 1 goes to expert 1.
# Softmax over the logits: token 0 gives expert 0 8/9, token 1 gives expert 1 1/3.
@pytest.mark.parametrize(("weights", "expected"), [("softmax", [8 / 9, 1 / 3]), ("plan", [2 / 3, 2 / 3])])
def test_balance_beats_preference(weights, expected):
    routed = SinkhornRouter(num_experts=2, weights=weights).route(PARAMS, {}, TOKENS)
    assert routed.plan.expert[0, :, 0].tolist() == [0, 1]
    np.testing.assert_allclose(routed.plan.weight[0, :, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(routed.metrics["load"], [0.5, 0.5])


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"num_iterations": 0}, {"num_selected_experts": 3}])
def test_impossible_options(fields):
    with pytest.raises(SpecError, match=next(iter(fields))):
        SinkhornRouter(num_experts=2, **fields)
