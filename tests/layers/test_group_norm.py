import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.group_norm import GroupNorm


def test_by_hand():
    # One picture of two places and four channels in two groups: group one holds 1, 3, 5, 7 (mean 4, variance 5).
    x = jnp.array([[[[1.0, 3.0, 10.0, 10.0]], [[5.0, 7.0, 10.0, 10.0]]]])
    params = {"scale": jnp.array([1.0, 2.0, 1.0, 1.0]), "bias": jnp.array([0.0, 0.0, 0.5, 0.0])}
    found = GroupNorm(num_groups=2, epsilon=1e-9).apply(params, x)
    root = np.sqrt(5.0)
    wanted = [[-3 / root, -2 / root, 0.5, 0.0], [1 / root, 6 / root, 0.5, 0.0]]
    np.testing.assert_allclose(np.reshape(found, (2, 4)), wanted, atol=1e-6)


def test_starts_as_the_plain_norm_in_every_dtype():
    norm = GroupNorm(num_groups=2)
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 4, 6)), jnp.bfloat16)
    y = norm.apply(norm.init(6), x)
    assert y.dtype == jnp.bfloat16
    groups = np.asarray(y, np.float32).reshape(2, 12, 2, 3).transpose(0, 2, 1, 3).reshape(4, -1)
    np.testing.assert_allclose(groups.mean(1), 0, atol=0.02)
    np.testing.assert_allclose(groups.std(1), 1, atol=0.02)


def test_groups_must_divide():
    with pytest.raises(SpecError, match="num_groups=4 does not divide 6 channels"):
        GroupNorm(num_groups=4).init(6)
    with pytest.raises(SpecError, match="epsilon=0"):
        GroupNorm(epsilon=0.0)
