import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.routing.sinkhorn import SinkhornRouter
from moejax.routing.transport import project_sparse_simplex, sinkhorn_plan, sparse_plan

sparse = jax.jit(sparse_plan, static_argnames=("num_nonzero", "num_iterations"))

# A balanced 2 x 2 plan [[p, 1 - p], [1 - p, p]] keeps the cross ratio of exp(logits): (p / (1 - p))^2 = 8 * 1 / (1 * 2) = 4,
# so p = 2/3.
LOGITS = jnp.log(jnp.asarray([[[8.0, 1.0], [2.0, 1.0]]]))
BALANCED = [[2 / 3, 1 / 3], [1 / 3, 2 / 3]]


def test_sinkhorn_by_hand():
    np.testing.assert_allclose(sinkhorn_plan(LOGITS)[0], BALANCED, rtol=1e-4)
    # Temperature 1/2 squares exp(logits): cross ratio 16, p / (1 - p) = 4, p = 0.8.
    np.testing.assert_allclose(sinkhorn_plan(LOGITS, temperature=0.5)[0], [[0.8, 0.2], [0.2, 0.8]], rtol=1e-3)


def test_sinkhorn_marginals():
    plan = sinkhorn_plan(jax.random.normal(jax.random.key(0), (2, 12, 4)))
    np.testing.assert_allclose(plan.sum(axis=2), 1.0, atol=1e-5)
    np.testing.assert_allclose(plan.sum(axis=1), 3.0, atol=1e-3)


@pytest.mark.parametrize(
    "x, k, projected",
    [
        ([0.5, 0.9, 0.1, 0.7], 2, [0.0, 0.6, 0.0, 0.4]),  # t = (0.9 + 0.7 - 1) / 2 = 0.3
        ([0.5, 0.9, 0.1, 0.7], 3, [0.4 / 3, 1.6 / 3, 0.0, 1.0 / 3]),  # t = (2.1 - 1) / 3 = 1.1 / 3
        ([2.0, 0.5, 0.0, 0.0], 2, [1.0, 0.0, 0.0, 0.0]),  # the second entry is below the threshold t = 1
        ([0.5, 0.9, 0.1, 0.7], 1, [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_projection_by_hand(x, k, projected):
    np.testing.assert_allclose(project_sparse_simplex(jnp.asarray([[x]]), k)[0, 0], projected, rtol=1e-5, atol=1e-7)


def test_sparse_plan_keeps_the_cardinality_and_descends_on_the_dual():
    similarity = jax.nn.softmax(2.0 * jax.random.normal(jax.random.key(0), (1, 12, 3)))
    dual = []
    for iterations in (1, 20, 100):
        plan, price = sparse(similarity, num_nonzero=5, num_iterations=iterations)
        plan, scores = np.asarray(plan), np.asarray(similarity + price[:, :, None])
        np.testing.assert_allclose(plan.sum(axis=1), 4.0, rtol=1e-5)
        assert (np.count_nonzero(plan, axis=1) <= 5).all()
        dual.append((scores * plan).sum() - 0.5 * np.square(plan).sum() - np.asarray(price).sum())
    assert dual[0] > dual[1] > dual[2]


def test_sparse_plan_without_a_bound_has_both_marginals():
    similarity = jax.nn.softmax(2.0 * jax.random.normal(jax.random.key(0), (1, 12, 3)))
    plan, _ = sparse(similarity, num_nonzero=12, num_iterations=100)
    np.testing.assert_allclose(plan.sum(axis=2), 1.0, atol=1e-3)
    np.testing.assert_allclose(plan.sum(axis=1), 4.0, atol=1e-3)


def test_sinkhorn_router_by_hand():
    # Softmax rows (8/9, 1/9) and (2/3, 1/3) both prefer expert 0; the balanced plan sends token 1 to expert 1.
    params, x = {"kernel": LOGITS[0]}, jnp.eye(2)[None]
    plan = jax.jit(SinkhornRouter(num_experts=2).route)(params, {}, x).plan
    np.testing.assert_array_equal(plan.expert[0, :, 0], [0, 1])
    np.testing.assert_allclose(plan.weight[0, :, 0], [8 / 9, 1 / 3], rtol=1e-5)
    plan = jax.jit(SinkhornRouter(num_experts=2, weights="plan").route)(params, {}, x).plan
    np.testing.assert_allclose(plan.weight[0, :, 0], [2 / 3, 2 / 3], rtol=1e-4)
