import jax
import jax.numpy as jnp
import numpy as np

from moejax.routing.merge import MergeRouter

GATES = np.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]], np.float32)
PARAMS, X = {"kernel": jnp.log(GATES)}, jnp.eye(4)[None]


def test_mean_token_by_hand():
    # The mean token's logits are means of logarithms, so weights are proportional to geometric means:
    # 0.042^(1/4) = 0.452700, 0.0042^(1/4) = 0.254573, 0.0004^(1/4) = 0.141421; sum 0.848694.
    routed = jax.jit(MergeRouter(num_experts=3).route)(PARAMS, {}, X)
    np.testing.assert_allclose(routed.plan.weight[0], [0.533408, 0.299958, 0.166634], rtol=1e-5)
    np.testing.assert_allclose(routed.metrics["load"], routed.plan.weight[0], rtol=1e-6)


def test_mean_probability_by_hand():
    # Column means: 2.0 / 4, 1.3 / 4, 0.7 / 4.
    routed = jax.jit(MergeRouter(num_experts=3, average="probabilities").route)(PARAMS, {}, X)
    np.testing.assert_allclose(routed.plan.weight[0], [0.5, 0.325, 0.175], rtol=1e-5)
    np.testing.assert_allclose(routed.metrics["margin"], 0.175, rtol=1e-4)
