"""Compressed Linen models run without changes, and their inputs can be observed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.compress import compress
from moejax.compress.weights import materialise
from moejax.core.errors import SpecError
from moejax.flax.compressed import compressed, observing
from moejax.linear.low_rank import LowRank

X = jax.random.normal(jax.random.key(0), (4, 5, 12))


class Model(nn.Module):
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(20, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x)))
        return x.astype(y.dtype) + nn.Dense(12, use_bias=False, dtype=self.dtype, name="out")(y)


@pytest.fixture
def variables():
    return jax.jit(Model().init)(jax.random.key(1), X)


@pytest.mark.lenient
def test_a_compressed_model_is_the_materialised_one(variables):
    made = compress(variables["params"], method="svd", budget=0.5)
    assert isinstance(made.params["Dense_0"]["kernel"], LowRank)
    expected = Model().apply({"params": materialise(made.params)}, X)
    with compressed():
        found = jax.jit(Model().apply)({"params": made.params}, X)
        grad = jax.jit(jax.grad(lambda p: jnp.sum(Model().apply({"params": p}, X))))(made.params)
        half = jax.eval_shape(Model(dtype=jnp.bfloat16).apply, {"params": made.params}, X)
        dense = jax.jit(Model().apply)(variables, X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dense, Model().apply(variables, X), atol=1e-5)
    assert half.dtype == jnp.bfloat16
    assert np.any(grad["Dense_0"]["kernel"].u) and np.any(grad["Dense_0"]["bias"])
    with pytest.raises(Exception, match="(?i)shape|parameter|leaf|dtype|valid"):
        Model().apply({"params": made.params}, X)


@pytest.mark.lenient
def test_observing_collects_what_dense_layers_read(variables):
    with observing(num_rows=3) as statistics:
        Model().apply(variables, X)
        Model().apply(variables, 2 * X)
    assert set(statistics) == {"Dense_0/kernel", "out/kernel"}
    scaled = [np.asarray(nn.LayerNorm().apply({"params": variables["params"]["LayerNorm_0"]}, x)) for x in (X, 2 * X)]
    rows = np.concatenate(scaled).reshape(-1, 12).astype(np.float64)
    own = statistics["Dense_0/kernel"]
    np.testing.assert_allclose(own.second_moment, rows.T @ rows, rtol=1e-5, atol=1e-4)
    assert own.count == 40 and own.rows.shape == (6, 12)
    made = compress(variables["params"], method="svd_llm", budget=0.6, statistics=statistics)
    plain = compress(variables["params"], method="svd", budget=0.6)
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"], np.float64)
    lost = [
        np.linalg.norm(rows @ (kernel - np.asarray(one.params["Dense_0"]["kernel"].materialise())))
        for one in (made, plain)
    ]
    assert lost[0] < lost[1]


@pytest.mark.lenient
def test_nothing_to_observe_under_jit(variables):
    with observing(), pytest.raises(SpecError, match="Dense_0/kernel: there is nothing to observe"):
        jax.jit(Model().apply)(variables, X)


@pytest.mark.lenient
def test_initialising_is_not_disturbed(variables):
    with compressed():
        again = jax.jit(Model().init)(jax.random.key(1), X)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
