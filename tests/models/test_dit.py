"""The diffusion transformer."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.spec import examples


def test_a_new_model_says_nothing() -> None:
    for name, model in examples("models"):
        if name == "dit":
            params, state = model.init(jax.random.key(0))
            x = jax.random.normal(jax.random.key(1), (2, 8, 8, model.channels))
            out = model.apply(params, state, x, jnp.asarray([3.0, 999.0]), jnp.asarray([0, 2]))
            assert out.prediction.shape == x.shape
            np.testing.assert_array_equal(out.prediction, 0.0)
