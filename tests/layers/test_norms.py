"""Norms against numbers worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.norms import LayerNorm, RMSNorm


def test_layer_norm_by_hand() -> None:
    norm = LayerNorm(epsilon=1.0)
    params = {"scale": jnp.asarray([1.0, 2.0, 3.0]), "bias": jnp.asarray([0.0, 0.5, -1.0])}
    # mean 3, centred (-2, 0, 2), variance 8/3; divided by sqrt(8/3 + 1) = 1.914854: (-1.044466, 0, 1.044466)
    y = norm.apply(params, jnp.asarray([[1.0, 3.0, 5.0]]))
    np.testing.assert_allclose(y, [[-1.044466, 0.5, 3 * 1.044466 - 1]], rtol=1e-5)


def test_rms_norm_by_hand() -> None:
    # mean of squares (9 + 16) / 2 = 12.5; 1 / sqrt(12.5 + 3.5) = 1/4
    y = RMSNorm(epsilon=3.5).apply({"scale": jnp.asarray([1.0, 2.0])}, jnp.asarray([[3.0, 4.0]]))
    np.testing.assert_allclose(y, [[0.75, 2.0]], rtol=1e-6)


def test_norms_compute_in_float32_and_return_the_dtype_of_x() -> None:
    # 257, the mean, is no bfloat16 number (spacing 2 above 256); the norm must find it all the same.
    x = jnp.asarray([[256.0, 258.0]], jnp.bfloat16)
    for norm in (LayerNorm(), LayerNorm(use_bias=False), RMSNorm()):
        assert norm.apply(norm.init(2), x).dtype == jnp.bfloat16
    np.testing.assert_allclose(LayerNorm().apply(LayerNorm().init(2), x).astype(jnp.float32), [[-1, 1]], rtol=1e-2)


def test_scale_only_has_no_bias_and_a_bad_epsilon_is_refused() -> None:
    assert list(LayerNorm(use_bias=False).init(4)) == ["scale"]
    bare = LayerNorm(use_bias=False, use_scale=False)
    assert bare.init(4) == {}
    np.testing.assert_allclose(bare.apply({}, jnp.asarray([[1.0, 3.0]])), [[-1.0, 1.0]], rtol=1e-5)
    with pytest.raises(SpecError, match="epsilon=0"):
        LayerNorm(epsilon=0.0)
