"""Product-key memories: retrieval against all n^2 scores, the dense sum, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.evals.flops import count_flops
from moejax.experts.product_keys import ProductKeyExperts
from moejax.layers.feed_forward import FeedForward
from moejax.linear.dense import Dense


def test_by_hand():
    # One memory, D = 1, n = 2, query = x (1, 2). Keys 1: 1 and -1; keys 2: 0 and 1. x = 1: q = (1, 2).
    # Scores of (a, b) = 1 c_a + 2 d_b: (0,0) 1, (0,1) 3, (1,0) -1, (1,1) 1. The best: (0,1), number 1, with weight 1 (K = 1).
    # u = (1, 2, 3, 4), v = (10, 20, 30, 40): relu(2) * 20 = 40.  x = -1: scores (-1, -3, 1, -1): number 2; relu(-3) = 0.
    params = {
        "query": Dense(jnp.asarray([[[1.0, 2.0]]])),
        "keys_1": Dense(jnp.asarray([[[1.0, -1.0]]])),
        "keys_2": Dense(jnp.asarray([[[0.0, 1.0]]])),
        "u": jnp.asarray([[[1.0], [2.0], [3.0], [4.0]]]),
        "v": jnp.asarray([[[10.0], [20.0], [30.0], [40.0]]]),
    }
    bank = ProductKeyExperts(num_keys=2, query_dim=2, normalise_query=False, activation="relu")
    x = Buffers(jnp.asarray([[[1.0], [-1.0]]]))
    score, index = bank.retrieve(params, x)
    np.testing.assert_array_equal(index, [[1], [2]])
    np.testing.assert_allclose(score, [[3.0], [1.0]])
    np.testing.assert_allclose(bank.apply(params, x).tokens[0, :, 0], [40.0, 0.0])
    # K = 2 of x = 1: number 1 (3) and, of the tie at 1, number 0: softmax(3, 1) = (0.880797, 0.119203).
    # 0.880797 * 2 * 20 + 0.119203 * 1 * 10 = 36.42391.
    two = ProductKeyExperts(num_keys=2, query_dim=2, num_selected_experts=2, normalise_query=False, activation="relu")
    np.testing.assert_allclose(two.apply(params, x).tokens[0, 0, 0], 36.42391, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_finds_the_best_of_all_pairs(seed):
    draw = np.random.default_rng(seed)
    n, heads, half, dim = int(draw.integers(2, 9)), int(draw.integers(1, 4)), int(draw.integers(1, 5)), 6
    selected = int(draw.integers(1, n * n + 1))
    bank = ProductKeyExperts(
        num_keys=n, num_heads=heads, num_selected_experts=selected, query_dim=2 * half, normalise_query=False
    )
    params = jax.jit(bank.init, static_argnums=(1, 2))(jax.random.key(seed), 2, dim)
    x = jnp.asarray(draw.normal(size=(7, dim)), jnp.float32)
    score, index = jax.jit(bank.retrieve)(params, Ragged(x, jnp.asarray([3, 4])))
    for row in range(7):
        own = {name: np.asarray(params[name].kernel[0 if row < 3 else 1]) for name in ("query", "keys_1", "keys_2")}
        queries = (np.asarray(x[row]) @ own["query"]).reshape(heads, 2 * half)
        for head in range(heads):
            first, second = queries[head, :half] @ own["keys_1"], queries[head, half:] @ own["keys_2"]
            every = (first[:, None] + second[None, :]).reshape(-1)
            found = slice(head * selected, (head + 1) * selected)
            np.testing.assert_allclose(score[row, found], np.sort(every)[::-1][:selected], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(every[index[row, found]], score[row, found], rtol=1e-4, atol=1e-5)
            assert len(set(np.asarray(index[row, found]).tolist())) == selected


def test_selecting_all_of_1024_is_the_dense_sum():
    bank = ProductKeyExperts(num_keys=32, num_selected_experts=1024, query_dim=8)
    layer = FeedForward(experts=bank)  # the PEER layer
    params = jax.jit(layer.init, static_argnums=1)(jax.random.key(0), 6)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 6)), jnp.float32)
    rows = np.asarray(x[0], np.float64)
    query = rows @ np.asarray(params["query"].kernel, np.float64)
    query = (query - query.mean(1, keepdims=True)) / np.sqrt(query.var(1, keepdims=True) + 1e-6)
    first = query[:, :4] @ np.asarray(params["keys_1"].kernel)
    second = query[:, 4:] @ np.asarray(params["keys_2"].kernel)
    scores = (first[:, :, None] + second[:, None, :]).reshape(3, 1024)
    gate = np.exp(scores - scores.max(1, keepdims=True))
    gate /= gate.sum(1, keepdims=True)
    hidden = np.asarray(jax.nn.gelu(jnp.asarray(rows @ np.asarray(params["u"]).T, jnp.float32)))
    want = (gate * hidden) @ np.asarray(params["v"])
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x)[0], want, rtol=1e-4, atol=1e-5)


def test_cost_grows_with_the_keys_and_not_with_their_square():
    def flops(n):
        bank = ProductKeyExperts(num_keys=n, num_heads=2, num_selected_experts=4, query_dim=8)
        params = jax.eval_shape(lambda: bank.init(jax.random.key(0), 1, 6))
        found = count_flops(lambda p, x: bank.apply(p, Buffers(x)).tokens, params, jnp.zeros((1, 10, 6)))
        assert found == 10 * bank.flops_per_token(6)
        return found

    # Doubling n adds the scores of n keys more: 2 sets x 2 n (Q / 2) H = 2 n * 8 * 2 per row, and nothing else.
    assert [flops(2 * n) - flops(n) for n in (8, 64, 512)] == [10 * 32 * n for n in (8, 64, 512)]


def test_a_million_experts():
    bank = ProductKeyExperts(num_keys=1000, num_heads=4, num_selected_experts=16, query_dim=16)
    params = jax.eval_shape(lambda: bank.init(jax.random.key(0), 1, 64))
    assert params["u"].shape == (1, 1_000_000, 64)
    # Beside the memory itself nothing of n^2 numbers is made.
    jaxpr = jax.make_jaxpr(lambda p, x: bank.apply(p, Buffers(x)).tokens)(params, jnp.zeros((1, 8, 64)))
    made = [v.aval.size for equation in jaxpr.eqns for v in equation.outvars if equation.primitive.name != "reshape"]
    assert max(made) < 100_000


def test_gradients_reach_the_experts_found_only():
    bank = ProductKeyExperts(num_keys=4, num_heads=2, num_selected_experts=3, query_dim=4)
    params = jax.jit(bank.init, static_argnums=(1, 2))(jax.random.key(0), 1, 5)
    x = Buffers(jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 5)), jnp.float32))
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(bank.apply(p, x).tokens))))(params)
    found = set(np.asarray(jax.jit(bank.retrieve)(params, x)[1])[0].tolist())
    assert set(np.flatnonzero(np.any(np.asarray(gradient["v"][0]), axis=1)).tolist()) == found
    for name in ("query", "keys_1", "keys_2"):
        assert np.any(gradient[name].kernel)


def test_bad_fields():
    with pytest.raises(SpecError, match="num_selected_experts=5 exceeds the 4 experts of num_keys=2"):
        ProductKeyExperts(num_keys=2, num_selected_experts=5)
    with pytest.raises(SpecError, match="query_dim=3 must be even"):
        ProductKeyExperts(num_keys=2, query_dim=3)
