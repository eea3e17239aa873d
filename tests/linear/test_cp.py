"""The CP leaf against the sum of outer products, and its cost, linear in the number of experts."""

import jax.numpy as jnp
import numpy as np

from moejax.linear.cp import Cp


def test_sum_of_outer_products():
    draw = np.random.default_rng(0)
    a, b, c = draw.normal(size=(3, 4)), draw.normal(size=(6, 4)), draw.normal(size=(5, 4))
    tensor = sum(np.multiply.outer(np.multiply.outer(a[:, r], b[:, r]), c[:, r]) for r in range(4))
    leaf = Cp(*(jnp.asarray(m, jnp.float32) for m in (b, a, c.T)))
    np.testing.assert_allclose(leaf.materialise(), tensor, rtol=1e-5, atol=1e-5)


def test_an_expert_costs_its_scales():
    def cost(experts):
        return Cp(jnp.zeros((6, 4)), jnp.zeros((experts, 4)), jnp.zeros((4, 5))).num_params()

    assert cost(1000) - cost(999) == 4
    assert cost(10) == 4 * (10 + 6 + 5)
