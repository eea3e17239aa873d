"""Learned ranks: the gate's gradient, its finiteness, the budget, and what they gain; the basis of activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.allocation import Matrix
from moejax.compress.compress import compress
from moejax.compress.dobi import DobiSvd, gate, gated_error, project
from moejax.compress.statistics import from_rows
from moejax.compress.svd import Svd
from moejax.core.errors import SpecError
from tests.compress.kernel_data import case


def test_the_gate_by_hand():
    np.testing.assert_allclose(
        gate(jnp.array([2.0]), 3, 1.0)[0], [0.5 + 0.5 * np.tanh(1), 0.5, 0.5 - 0.5 * np.tanh(1)], rtol=1e-6
    )


def test_the_gradient_matches_finite_differences():
    shares = np.random.default_rng(0).random((2, 6))

    def error(k):  # in float64 NumPy
        gates = 0.5 * np.tanh(0.7 * (k[:, None] - np.arange(1, 7))) + 0.5
        return np.sum(shares * (1 - gates) ** 2)

    k = np.array([2.3, 4.1])
    found = jax.grad(lambda k: gated_error(gate(k, 6, 0.7), jnp.asarray(shares, jnp.float32)))(
        jnp.asarray(k, jnp.float32)
    )
    expected = [(error(k + 1e-5 * e) - error(k - 1e-5 * e)) / 2e-5 for e in np.eye(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_gradient_is_finite_for_repeated_singular_values():
    kernel = np.eye(5)  # all singular values are one
    leaf = DobiSvd().factorise(kernel, from_rows(np.eye(5)))

    def loss(k):
        gates = gate(k, 5, 1.0)[0]
        return jnp.sum(
            (jnp.asarray(leaf.u, jnp.float32) * gates[None] @ jnp.asarray(leaf.v, jnp.float32) - jnp.eye(5)) ** 2
        )

    slope = jax.grad(loss)(jnp.array([2.5]))
    assert np.all(np.isfinite(slope)) and np.all(slope < 0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_basis_of_activations_beats_that_of_the_kernel(rank):
    data = case(8, 6)
    made, plain = DobiSvd().factorise(data.kernel, from_rows(data.x)), Svd().factorise(data.kernel, None)
    errors = [np.linalg.norm(data.x @ (data.kernel - f.u[:, :rank] @ f.v[:rank])) for f in (made, plain)]
    assert errors[0] < errors[1]
    # W V_k V_k^T with V from the principal axes of the activations
    axes = np.linalg.svd(data.x @ data.kernel)[2][:rank]
    np.testing.assert_allclose(made.u[:, :rank] @ made.v[:rank], data.kernel @ axes.T @ axes, atol=1e-9)


def test_projection():
    cost, cap = np.array([2.0, 1.0]), np.array([10.0, 10.0])
    np.testing.assert_allclose(project(np.array([6.0, 6.0]), cost, cap, 8.0), [2, 4], atol=1e-9)  # (6, 6) - 2 (2, 1)
    np.testing.assert_allclose(project(np.array([0.0, 3.0]), cost, cap, 1000.0), cap)
    np.testing.assert_allclose(project(np.array([-5.0, 9.0]), cost, cap, 6.0), [1, 4], atol=1e-9)


def test_ranks_go_where_the_energy_is():
    matrices = [Matrix(40, 40, 0), Matrix(40, 40, 1)]
    flat, steep = np.full(40, 1 / 40), 0.5 ** np.arange(1, 41)
    ranks = DobiSvd().learn_ranks(matrices, [flat, steep], 80.0 * 20)
    np.testing.assert_allclose(ranks.sum(), 20, rtol=1e-6)
    assert ranks[0] > ranks[1] > 3


def params_and_statistics():
    draw = np.random.default_rng(0)
    low = draw.normal(size=(24, 3)) @ draw.normal(size=(3, 24)) + 0.01 * draw.normal(size=(24, 24))
    params = {"low": {"kernel": jnp.asarray(low, jnp.float32)}, "full": {"kernel": jnp.asarray(draw.normal(size=(24, 24)), jnp.float32)}}  # fmt: skip
    rows = from_rows(draw.normal(size=(60, 24)))
    return params, {f"{name}/kernel": rows for name in params}


def test_learned_ranks_meet_the_budget_and_beat_equal_ones():
    params, statistics = params_and_statistics()
    made = compress(params, method="dobi", budget=0.5, statistics=statistics)
    assert made.report.allocation == "learned"
    assert 0 <= made.report.allowed - made.report.after < 48
    equal = compress(params, method="dobi", budget=0.5, statistics=statistics, allocation="uniform")
    lost = [sum(row.own_error**2 for row in one.report.weights) for one in (made, equal)]
    assert lost[0] < lost[1]
    ranks = {row.name: row.ranks[0] for row in made.report.weights}
    assert ranks["low/kernel"] <= 5 < ranks["full/kernel"]


def test_learned_from_a_loss():
    params, statistics = params_and_statistics()
    target = params["low"]["kernel"]

    def loss(tree):  # only the matrix 'low' matters, and all of it
        leaf = tree["low"]["kernel"]
        return jnp.sum(((leaf.materialise() if hasattr(leaf, "materialise") else leaf) - target) ** 2)

    made = compress(params, method=DobiSvd(steps=60), budget=0.4, statistics=statistics, loss=loss)
    ranks = {row.name: row.ranks[0] for row in made.report.weights}
    assert ranks["low/kernel"] > 5 > ranks["full/kernel"]


def test_bad_fields():
    with pytest.raises(SpecError, match="beta=0"):
        DobiSvd(beta=0.0)
