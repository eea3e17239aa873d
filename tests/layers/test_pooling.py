"""Attention pooling: with a zero query and identity values it is the mean, then the residual MLP is added."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.experts.mlp import MlpExperts
from moejax.layers.pooling import AttentionPooling
from moejax.linear.dense import Dense


def test_zero_query_pools_the_mean() -> None:
    experts = MlpExperts(expert_dim=5, activation="relu")
    pool = AttentionPooling(num_heads=2, experts=experts)
    params = pool.init(jax.random.key(0), 4)
    # Query zero: every score is zero, every weight 1/T; identity value and output kernels leave the mean of the tokens.
    params["query"] = jnp.zeros((1, 1, 4))
    identity = Dense(jnp.eye(4))
    params["attention"] |= {"value": identity, "out": identity}
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    mean = x.mean(1)
    p = jax.tree.map(np.asarray, params["feed_forward"])
    normed = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    hidden = np.maximum(normed @ p["up"].kernel + p["up_bias"], 0)
    expected = mean + hidden @ p["down"].kernel + p["down_bias"]
    np.testing.assert_allclose(pool.apply(params, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
