"""Causal attention against a loop in numpy, and what a token must not see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.causal_attention import CausalAttention

PLAIN = CausalAttention(num_heads=2, num_kv_heads=2, head_dim=4)
SHARED = CausalAttention(
    num_heads=4, num_kv_heads=2, head_dim=2, rope_base=30.0, sliding_window=3, bias="qkv", qk_norm="width"
)
WIDE = CausalAttention(num_heads=4, num_kv_heads=1, head_dim=6, bias="all", qk_norm="head", norm_epsilon=1e-3)
ALL = pytest.mark.parametrize("attention", [PLAIN, SHARED, WIDE], ids=["plain", "shared", "wide"])


def randomised(params, seed=7):
    """Parameters without zeros, so that every bias and scale shows."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.5, jnp.float32), params)


def normed(x, scale, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def turned(x, base):
    """x [T d], by complex numbers."""
    half = x.shape[1] // 2
    angle = np.outer(np.arange(len(x)), base ** -(np.arange(half) / half))
    y = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([y.real, y.imag], 1)


def slow_attention(a, p, x):
    p = jax.tree.map(np.asarray, p)
    heads, groups, width = a.num_heads, a.num_heads // a.num_kv_heads, a.head_dim
    out = np.zeros((*x.shape[:2], heads * width))
    for b in range(len(x)):
        whole = {}
        for name in ("query", "key", "value"):
            whole[name] = x[b] @ p[name].kernel + p.get(f"{name}_bias", 0.0)
            if a.qk_norm == "width" and name != "value":
                whole[name] = normed(whole[name], p[f"{name}_norm"]["scale"], a.norm_epsilon)
        for h in range(heads):
            parts = {}
            for name, index in (("query", h), ("key", h // groups), ("value", h // groups)):
                part = whole[name][:, index * width : (index + 1) * width]
                if a.qk_norm == "head" and name != "value":
                    part = normed(part, p[f"{name}_norm"]["scale"], a.norm_epsilon)
                parts[name] = part if name == "value" else turned(part, a.rope_base)
            for t in range(x.shape[1]):
                seen = slice(max(0, t + 1 - (a.sliding_window or 10**6)), t + 1)
                scores = np.exp(parts["key"][seen] @ parts["query"][t] / np.sqrt(width))
                out[b, t, h * width : (h + 1) * width] = scores / scores.sum() @ parts["value"][seen]
    return out @ p["out"].kernel + p.get("out_bias", 0.0)


@ALL
def test_attention_equals_the_loop(attention):
    params = randomised(attention.init(jax.random.key(0), 8))
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    y = attention.apply(params, jnp.asarray(x))
    np.testing.assert_allclose(y, slow_attention(attention, params, x), rtol=1e-4, atol=1e-5)


@ALL
def test_steps_after_a_prefill_equal_the_whole(attention):
    params = randomised(attention.init(jax.random.key(0), 8))
    x = jax.random.normal(jax.random.key(1), (3, 9, 8))
    whole = attention.apply(params, x)
    lengths = jnp.array([5, 1, 3], jnp.int32)
    y, cache = attention.prefill(params, x[:, :5], lengths, cache_length=9)
    assert cache.key.shape[2] == (attention.sliding_window or 9)
    np.testing.assert_allclose(y, whole[:, :5], rtol=1e-5, atol=1e-5)
    for i in range(4):
        at = lengths + i
        token = jnp.take_along_axis(x, at[:, None, None], axis=1)
        y, cache = attention.step(params, token, cache, at)
        expected = jnp.take_along_axis(whole, at[:, None, None], axis=1)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_a_token_sees_itself_and_w_minus_1_before():
    params = randomised(SHARED.init(jax.random.key(0), 8))
    x = jax.random.normal(jax.random.key(1), (1, 7, 8))
    changed = SHARED.apply(params, x.at[:, 3].add(1.0)) - SHARED.apply(params, x)
    np.testing.assert_array_equal(np.abs(changed[0]).max(1) > 1e-6, [0, 0, 0, 1, 1, 1, 0])


def test_dropout_needs_a_key():
    attention = dataclasses.replace(PLAIN, dropout_rate=0.5)
    params = attention.init(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (1, 4, 8))
    plain = attention.apply(params, x)
    np.testing.assert_array_equal(plain, PLAIN.apply(params, x))
    assert not np.allclose(plain, attention.apply(params, x, key=jax.random.key(2)))


def test_parameters_by_shape():
    params = jax.tree.map(jnp.shape, SHARED.init(jax.random.key(0), 5))
    assert params["query"].kernel == (5, 8)
    assert params["key"].kernel == params["value"].kernel == (5, 4)
    assert params["out"].kernel == (8, 5)
    assert (params["query_bias"], params["key_bias"], params["key_norm"]) == ((8,), (4,), {"scale": (4,)})
    assert "out_bias" not in params
    assert "out_bias" in WIDE.init(jax.random.key(0), 5)
    assert not {name for name in PLAIN.init(jax.random.key(0), 5) if "bias" in name or "norm" in name}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=2"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
        ({"sliding_window": 0}, "sliding_window=0 must be at least 1"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
        ({"norm_epsilon": 0.0}, "epsilon=0.0 must be above 0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(PLAIN, **fields)
