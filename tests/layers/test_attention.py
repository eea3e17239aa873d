"""Attention against a loop in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.attention import Attention


def randomised(params: dict, seed: int = 7) -> dict:
    """Parameters without zeros, so that every bias and scale shows."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.5, jnp.float32), params)


def slow_attention(p: dict, x: np.ndarray, context: np.ndarray, heads: int, *, qk_norm: bool, causal: bool):
    p = jax.tree.map(np.asarray, p)
    width = x.shape[-1] // heads
    out = np.zeros_like(x)
    for b in range(x.shape[0]):
        query, key, value = (
            source[b] @ p[name].kernel + p[f"{name}_bias"]
            for name, source in (("query", x), ("key", context), ("value", context))
        )
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            q, k = query[:, part], key[:, part]
            if qk_norm:
                q, k = (
                    (a - a.mean(1, keepdims=True))
                    / np.sqrt(a.var(1, keepdims=True) + 1e-6)
                    * p[f"{name}_norm"]["scale"]
                    for name, a in (("query", q), ("key", k))
                )
            for t in range(len(q)):
                seen = slice(0, t + 1) if causal else slice(None)
                scores = np.exp(k[seen] @ q[t] / np.sqrt(width))
                out[b, t, part] = scores / scores.sum() @ value[seen, part]
    return out @ p["out"].kernel + p["out_bias"]


@pytest.mark.parametrize(("qk_norm", "causal", "cross"), [(0, 0, 0), (1, 0, 1), (0, 1, 0)])
def test_attention_equals_the_loop(qk_norm: int, causal: int, cross: int) -> None:
    attention = Attention(num_heads=2, qk_norm=bool(qk_norm), causal=bool(causal))
    params = randomised(attention.init(jax.random.key(0), 8))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    context = rng.normal(size=(2, 3, 8)).astype(np.float32) if cross else x
    y = attention.apply(params, jnp.asarray(x), context=jnp.asarray(context) if cross else None)
    expected = slow_attention(params, x, context, 2, qk_norm=bool(qk_norm), causal=bool(causal))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_dropout_needs_a_key_and_the_dtype_is_kept() -> None:
    attention = Attention(num_heads=2, dropout_rate=0.5)
    params = attention.init(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (1, 4, 8))
    plain, again = attention.apply(params, x), attention.apply(params, x)
    dropped = attention.apply(params, x, key=jax.random.key(2))
    np.testing.assert_array_equal(plain, again)
    assert not np.allclose(plain, dropped)
    assert attention.apply(params, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_heads_that_do_not_divide_are_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(SpecError, match="num_heads=5 does not divide dim=8; the nearest divisor is 4"):
        Attention(num_heads=5).init(jax.random.key(0), 8)
    with pytest.raises(SpecError, match="must lie in"):
        Attention(num_heads=2, dropout_rate=1.0)


def test_masked_tokens_are_seen_by_nobody() -> None:
    attention = Attention(num_heads=2)
    params = randomised(attention.init(jax.random.key(0), 8))
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    mask = jnp.array([[True] * 4 + [False] * 2, [True] * 6])
    y = attention.apply(params, x, mask=mask)
    np.testing.assert_allclose(y[0, :4], attention.apply(params, x[:1, :4])[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y[1], attention.apply(params, x[1:])[0], rtol=1e-5, atol=1e-5)
    nobody = attention.apply(params, x, mask=jnp.zeros((2, 6), bool))
    assert np.all(np.isfinite(nobody))


def test_qk_norm_with_biases() -> None:
    attention = Attention(num_heads=2, qk_norm=True, qk_norm_bias=True)
    params = attention.init(jax.random.key(0), 8)
    assert sorted(params["query_norm"]) == sorted(params["key_norm"]) == ["bias", "scale"]
    x = jax.random.normal(jax.random.key(1), (1, 3, 8))
    plain = Attention(num_heads=2, qk_norm=True)
    np.testing.assert_allclose(attention.apply(params, x), plain.apply(params, x), rtol=1e-6)  # biases start at zero
    params["query_norm"] = {"scale": jnp.zeros(4), "bias": jnp.asarray([1.0, 0.0, 0.0, 0.0])}
    params["key_norm"] = {"scale": jnp.zeros(4), "bias": jnp.asarray([2.0, 0.0, 0.0, 0.0])}
    # All scores are the same, so that every token gets the mean of the values.
    values = x @ params["value"].kernel + params["value_bias"][None, None]
    expected = values.mean(1, keepdims=True) @ params["out"].kernel + params["out_bias"][None, None]
    np.testing.assert_allclose(attention.apply(params, x), jnp.broadcast_to(expected, x.shape), rtol=1e-4, atol=1e-6)
