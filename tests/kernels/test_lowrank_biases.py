"""Biases of low-rank products: values against loops in NumPy, gradients against the unfused product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moejax_kernels.lowrank_matmul import grouped_lowrank_ffn, lowrank_attention, lowrank_ffn

IMPLEMENTATIONS = ("reference", "xla")
M, D, R, F, S, O, E = 23, 5, 3, 7, 2, 4, 3
SIZES = np.array([9, 0, 12])


def draw(seed, *shape):
    return jnp.asarray(0.5 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands(gated):
    names = {"up": (D, R, F), "down": (F, S, O)} | ({"gate": (D, R + 1, F)} if gated else {})
    pairs = {
        name: (draw(10 * i, E, depth, rank), draw(10 * i + 1, E, rank, width))
        for i, (name, (depth, rank, width)) in enumerate(names.items())
    }
    x = draw(5, M, D).at[SIZES.sum() :].set(jnp.nan)  # rows that belong to nobody reach nothing
    return x, pairs, draw(6, E, F)


def silu(x):
    return x / (1 + np.exp(-x))


def by_hand(x, pairs, bias, ranks):
    x, pairs, bias = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, pairs, bias))
    y, first = np.zeros((M, O)), 0
    for e, size in enumerate(SIZES):
        rows = slice(first, first + size)
        first += size
        kernels = {
            name: u[e][:, : ranks[e]] @ v[e][: ranks[e]] if name == "up" else u[e] @ v[e]
            for name, (u, v) in pairs.items()
        }
        value = x[rows] @ kernels["up"] + bias[e]
        hidden = silu(x[rows] @ kernels["gate"]) * value if "gate" in kernels else silu(value)
        y[rows] = hidden @ kernels["down"]
    return y


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("gated", "ranks"), [(False, None), (True, (2, 3, 0))])
def test_the_bias_of_the_hidden_layer(gated, ranks, implementation):
    x, pairs, bias = operands(gated)

    def ffn(x, pairs, bias):
        told = {} if ranks is None else {"up_ranks": jnp.array(ranks)}
        return grouped_lowrank_ffn(
            x,
            pairs["up"],
            pairs["down"],
            jnp.array(SIZES),
            gate=pairs.get("gate"),
            up_bias=bias,
            activation="silu",
            implementation=implementation,
            **told,
        )

    def plain(x, pairs, bias):
        owner = jnp.repeat(jnp.arange(E), SIZES, total_repeat_length=int(SIZES.sum()))
        rows = x[: SIZES.sum()]
        if ranks is not None:
            present = (jnp.arange(R)[None, :] < jnp.array(ranks)[:, None]).astype(jnp.float32)
            pairs = pairs | {"up": (pairs["up"][0] * present[:, None, :], pairs["up"][1])}
        kernel = {name: jnp.einsum("EDR,ERF->EDF", *pair)[owner] for name, pair in pairs.items()}
        value = jnp.einsum("MD,MDF->MF", rows, kernel["up"]) + bias[owner]
        gate = jnp.einsum("MD,MDF->MF", rows, kernel["gate"]) if gated else value
        hidden = jax.nn.silu(gate) * value if gated else jax.nn.silu(gate)
        return jnp.einsum("MF,MFD->MD", hidden, kernel["down"])

    y = jax.jit(ffn)(x, pairs, bias)
    wanted = by_hand(x, pairs, bias, (R,) * E if ranks is None else ranks)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    assert not np.any(y[SIZES.sum() :])

    found, expected = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2)))(x, pairs, bias)
        for f in (ffn, plain)
    )
    for a, b in zip(jax.tree.leaves(found[1:]), jax.tree.leaves(expected[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[0][: SIZES.sum()], expected[0][: SIZES.sum()], rtol=1e-3, atol=1e-3)
    assert not np.any(found[2][1])  # nobody's bias


def test_one_group():
    x, pairs, bias = operands(False)
    x = x[: SIZES.sum()]
    up, down = (jax.tree.map(lambda a: a[0], pairs[name]) for name in ("up", "down"))
    y = lowrank_ffn(x, up, down, up_bias=bias[0], activation="relu", implementation="xla")
    hidden = np.maximum(np.asarray(x) @ np.asarray(up[0]) @ np.asarray(up[1]) + np.asarray(bias[0]), 0)
    np.testing.assert_allclose(y, hidden @ np.asarray(down[0]) @ np.asarray(down[1]), rtol=1e-4, atol=1e-4)


def attention_by_hand(x, pairs, biases, heads, causal):
    x, pairs, biases = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, pairs, biases))
    query, key, value = (x @ u @ v + b for (u, v), b in zip(pairs, biases, strict=True))
    width, out = query.shape[-1] // heads, np.zeros(value.shape)
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        scores = np.einsum("btk,bsk->bts", query[..., own], key[..., own]) / np.sqrt(width)
        if causal:
            scores = np.where(np.tri(scores.shape[1], dtype=bool), scores, -np.inf)
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        out[..., own] = weight / weight.sum(-1, keepdims=True) @ value[..., own]
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_biases(causal, implementation):
    x = draw(0, 2, 11, 6)
    pairs = [(draw(i, 6, 3), draw(i + 1, 3, 8)) for i in (1, 3, 5)]
    biases = [draw(i, 8) for i in (7, 8, 9)]  # that of the keys is not passed on: the softmax does not see it
    told = {"num_heads": 2, "causal": causal, "implementation": implementation}
    y = lowrank_attention(x, *pairs, query_bias=biases[0], value_bias=biases[2], **told)
    np.testing.assert_allclose(y, attention_by_hand(x, pairs, biases, 2, causal), rtol=1e-4, atol=1e-4)


def test_wrong_shapes():
    x, pairs, bias = operands(False)
    with pytest.raises(ValueError, match=r"up_bias has shape \(3, 6\).*\(3, 7\)"):
        grouped_lowrank_ffn(x, pairs["up"], pairs["down"], jnp.array(SIZES), up_bias=bias[:, 1:], activation="relu")
    pair = (draw(0, 6, 3), draw(1, 3, 8))
    with pytest.raises(ValueError, match=r"value_bias has shape \(9,\)"):
        lowrank_attention(draw(2, 1, 4, 6), pair, pair, pair, value_bias=draw(3, 9), num_heads=2)
