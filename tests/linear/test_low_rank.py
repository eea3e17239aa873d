"""The low-rank leaf: the same products as the dense kernel that it stands for, in a Dense leaf's places too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.layers.attention import Attention
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.linear.mix import mix

E, D, R, F = 3, 8, 2, 6


def bank(seed=0, *, ranks=None, shape=(E, D, R, F)):
    draw = np.random.default_rng(seed)
    *lead, depth, rank, width = shape
    u, v = draw.normal(size=(*lead, depth, rank)), draw.normal(size=(*lead, rank, width))
    return LowRank(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32), ranks)


def rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), a, b)


LAYOUTS = {"rows": lambda: Ragged(rows(1, 9, D), jnp.array([4, 0, 3])), "buffers": lambda: Buffers(rows(1, E, 4, D))}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ranks", [None, (2, 0, 1)])
def test_equals_the_dense_kernel(layout, ranks):
    x, leaf, bias = LAYOUTS[layout](), bank(ranks=ranks), rows(3, E, F)
    dense = Dense(leaf.materialise())
    close(leaf.grouped_matmul(x), dense.grouped_matmul(x))
    ended = leaf.grouped_matmul(x, bias=bias, activation="gelu")
    close(ended, dense.grouped_matmul(x, bias=bias, activation="gelu"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_beyond_the_ranks_are_zero(layout):
    x, leaf = LAYOUTS[layout](), bank(ranks=(2, 0, 1))
    leaf = leaf.replace(u=leaf.u.at[2, :, 1].set(jnp.nan), v=leaf.v.at[1].set(jnp.inf))
    gradient = jax.grad(lambda leaf: jnp.sum(leaf.grouped_matmul(x).tokens ** 2))(leaf)
    for e, rank in enumerate(leaf.ranks):
        assert not np.any(gradient.u[e, :, rank:])
        assert not np.any(gradient.v[e, rank:])
    assert np.all(np.isfinite(gradient.u))
    assert np.any(gradient.u[0])
    cleared = jax.grad(lambda leaf: jnp.sum(leaf.grouped_matmul(x).tokens ** 2))(leaf.cleared())
    close((gradient.u, gradient.v), (cleared.u, cleared.v))


def test_one_kernel():
    leaf = bank(shape=(D, R, F))
    x = rows(1, 2, 3, D)
    close(leaf.matmul(x), x @ leaf.u @ leaf.v)
    assert leaf.matmul(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("width", [F, 60])
def test_mix_is_exact(width):
    leaf = bank(shape=(E, 20, R, width), ranks=(2, 1, 2))
    weight = jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    mixed = mix({"up": leaf}, weight)["up"]
    assert isinstance(mixed, LowRank if width == 60 else Dense)
    close(mixed.materialise(), jnp.einsum("GE,EDF->GDF", weight, leaf.materialise()))
    x = Buffers(rows(1, 2, 5, 20))
    close(mixed.grouped_matmul(x), Dense(mixed.materialise()).grouped_matmul(x))


def test_counts():
    assert bank(shape=(D, R, F)).num_params() == R * (D + F)
    assert bank(shape=(D, R, F)).flops_per_row() == 2 * R * (D + F)
    assert bank().num_params() == E * R * (D + F)
    assert bank(ranks=(2, 0, 1)).num_params() == 3 * (D + F)
    assert bank(ranks=(2, 0, 1)).flops_per_row() == 2 * (D + F)


def test_ranks_of_the_wrong_number():
    with pytest.raises(SpecError, match=r"ranks=\(1, 2\).*cleared"):
        bank(ranks=(1, 2)).materialise()


def factored(leaf):
    """The kernel's singular value decomposition, all of it."""
    u, scale, v = jnp.linalg.svd(leaf.kernel, full_matrices=False)
    return LowRank(u * scale[..., None, :], v)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("experts", [MlpExperts(expert_dim=F), SwigluExperts(expert_dim=F)])
def test_experts_take_it_for_a_dense_leaf(experts, layout):
    params = experts.init(jax.random.key(0), E, D)
    thin = {name: factored(leaf) if isinstance(leaf, Dense) else leaf for name, leaf in params.items()}
    x = LAYOUTS[layout]()

    def loss(x, params):
        return jnp.sum(jnp.sin(experts.apply(params, x).tokens))

    close(experts.apply(thin, x), experts.apply(params, x))
    gradient = jax.grad(lambda tokens, p: loss(x.replace(tokens=tokens), p))
    close(gradient(x.tokens, thin), gradient(x.tokens, params))


def test_attention_takes_it_for_a_dense_leaf():
    attention = Attention(num_heads=2)
    params = attention.init(jax.random.key(0), D)
    thin = {name: factored(leaf) if isinstance(leaf, Dense) else leaf for name, leaf in params.items()}
    assert sum(isinstance(leaf, LowRank) for leaf in thin.values()) == 4
    x = rows(1, 2, 5, D)
    close(attention.apply(thin, x), attention.apply(params, x))
    found, wanted = (jax.grad(lambda x, p=p: jnp.sum(attention.apply(p, x) ** 2))(x) for p in (thin, params))
    close(found, wanted)
