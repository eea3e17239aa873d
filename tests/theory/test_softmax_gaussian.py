"""The written derivatives are those of automatic differentiation of the density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.softmax_gaussian import derivatives, pack, unpack


@pytest.mark.parametrize("num_selected_experts", [None, 2])
def test_derivatives(num_selected_experts):
    draw = np.random.default_rng(0)
    model = GaussianMoE(num_selected_experts=num_selected_experts)
    with jax.enable_x64(True):
        theta = jnp.asarray(draw.normal(size=15))
        x, y, count = (jnp.asarray(draw.uniform(0, 2, size=40)) for _ in range(3))

        def value(theta):
            return jnp.sum(count * model.log_density(unpack(theta), x, y))

        selected = jnp.isfinite(model.log_gates(unpack(theta), x))
        found = jax.jit(derivatives)(theta, x, y, count, None if num_selected_experts is None else selected)
        wanted = jax.jit(lambda theta: (value(theta), jax.grad(value)(theta), jax.hessian(value)(theta)))(theta)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-11, atol=1e-11)


def test_packing_goes_both_ways():
    with jax.enable_x64(True):
        theta = jnp.arange(10.0)
        params = unpack(theta)
        assert params["gate"]["kernel"].tolist() == [[1.0, 6.0]] and params["log_variance"].tolist() == [4.0, 9.0]
        assert pack(params).tolist() == theta.tolist()
        assert unpack(jnp.zeros((7, 3, 10)))["gate"]["kernel"].shape == (7, 3, 1, 2)
