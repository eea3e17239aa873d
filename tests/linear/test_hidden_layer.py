"""A hidden layer between low-rank leaves equals that of the dense kernels, and is never written to memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.layouts import Buffers, Ragged
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.layers.feed_forward import FeedForward
from moejax.linear import hidden_layer
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank

E, D, R, F = 3, 6, 2, 10


@pytest.fixture
def fuse_all(monkeypatch):
    monkeypatch.setattr(hidden_layer, "LEAST_FUSED", 0)


def draw(seed, *shape):
    return jnp.asarray(0.5 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def banks(spec, ranks=None):
    """A bank with low-rank leaves, and the dense one that it stands for."""
    params = jax.eval_shape(lambda: spec.init(jax.random.key(0), E, D))
    low = {}
    for i, (name, leaf) in enumerate(params.items()):
        if isinstance(leaf, Dense):
            _, depth, width = leaf.kernel.shape
            low[name] = LowRank(draw(2 * i, E, depth, R), draw(2 * i + 1, E, R, width), ranks)
        else:
            low[name] = draw(2 * i, *leaf.shape)
    dense = {name: Dense(leaf.materialise()) if isinstance(leaf, LowRank) else leaf for name, leaf in low.items()}
    return low, dense


LAYOUTS = {
    "rows": lambda: Ragged(draw(99, 12, D).at[10:].set(0), jnp.array([4, 0, 6])),
    "buffers": lambda: Buffers(draw(99, E, 5, D)),
}
SPECS = {
    "mlp": MlpExperts(expert_dim=F),
    "exact": MlpExperts(expert_dim=F, activation="gelu_exact"),
    "gated": SwigluExperts(expert_dim=F),
}


@pytest.mark.parametrize(
    ("name", "layout", "ranks"),
    [
        ("mlp", "rows", None),
        ("mlp", "buffers", (2, 0, 1)),
        ("exact", "buffers", None),
        ("gated", "rows", (2, 0, 1)),
        ("gated", "buffers", None),
    ],
)
def test_equals_the_dense_bank(name, layout, ranks, fuse_all):
    spec, x = SPECS[name], LAYOUTS[layout]()
    low, dense = banks(spec, ranks)
    y, wanted = (jax.jit(spec.apply)(params, x) for params in (low, dense))
    assert type(y) is type(x)
    np.testing.assert_allclose(y.tokens, wanted.tokens, rtol=1e-4, atol=1e-3)

    def loss(params, x):
        return jnp.sum(jnp.sin(spec.apply(params, x).tokens))

    found, expected = (jax.jit(jax.grad(loss))(params, x) for params in (low, dense))
    for key in low:
        if not isinstance(low[key], LowRank):
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-3, atol=1e-3)
            continue
        u, v, kernel = low[key].cleared().u, low[key].cleared().v, expected[key].kernel
        present = np.ones((E, R)) if ranks is None else np.arange(R)[None, :] < np.array(ranks)[:, None]
        by_chain = np.einsum("edf,erf->edr", kernel, v) * present[:, None, :]
        np.testing.assert_allclose(found[key].u, by_chain, rtol=1e-3, atol=1e-3)
        by_chain = np.einsum("edf,edr->erf", kernel, u) * present[:, :, None]
        np.testing.assert_allclose(found[key].v, by_chain, rtol=1e-3, atol=1e-3)


def test_one_dense_leaf_takes_the_usual_way(fuse_all):
    spec, x = SPECS["mlp"], LAYOUTS["buffers"]()
    low, dense = banks(spec)
    mixed = low | {"down": dense["down"]}
    np.testing.assert_allclose(spec.apply(mixed, x).tokens, spec.apply(dense, x).tokens, rtol=1e-4, atol=1e-3)


def test_dropout_of_the_hidden_layer_still_drops(fuse_all):
    spec, x = dataclasses.replace(SPECS["mlp"], dropout_rate=0.5), LAYOUTS["buffers"]()
    low, _ = banks(spec)
    np.testing.assert_array_equal(spec.apply(low, x).tokens, SPECS["mlp"].apply(low, x).tokens)
    assert not np.array_equal(spec.apply(low, x, key=jax.random.key(0)).tokens, spec.apply(low, x).tokens)


def test_bfloat16_stays(fuse_all):
    spec, x = SPECS["mlp"], Buffers(draw(0, E, 5, D).astype(jnp.bfloat16))
    assert jax.eval_shape(spec.apply, banks(spec)[0], x).tokens.dtype == jnp.bfloat16


def test_small_layers_take_two_products(monkeypatch):
    spec, x = SPECS["mlp"], LAYOUTS["rows"]()
    monkeypatch.setattr(hidden_layer, "grouped_lowrank_ffn", None)  # would fail
    low, dense = banks(spec)
    np.testing.assert_allclose(spec.apply(low, x).tokens, spec.apply(dense, x).tokens, rtol=1e-4, atol=1e-3)


def test_the_hidden_width_is_not_held():
    """Peak temporary memory of the compiled layer: below the hidden rows alone, which the dense layer holds."""
    rows, width, hidden, rank = 2048, 16, 512, 4
    layer = FeedForward(experts=MlpExperts(expert_dim=hidden))
    params = layer.init(jax.random.key(0), width)
    low = params | {
        "up": LowRank(draw(0, width, rank), draw(1, rank, hidden)),
        "down": LowRank(draw(2, hidden, rank), draw(3, rank, width)),
    }
    x = draw(4, 1, rows, width)
    used = {}
    for name, tree in {"low": low, "dense": params}.items():
        compiled = jax.jit(layer.apply).lower(tree, x).compile()
        used[name] = compiled.memory_analysis().temp_size_in_bytes
    assert used["dense"] >= 4 * rows * hidden > used["low"], used
