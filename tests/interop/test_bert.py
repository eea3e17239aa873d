"""Weights by BERT's names against a forward pass in NumPy, written with loops over texts, heads and tokens."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.interop.bert import params_from
from moejax.models.text_encoder import TextEncoder

ENCODER = TextEncoder(vocabulary_size=13, max_length=9, dim=8, depth=2, num_heads=2, mlp_dim=12)


def tensors(seed=0):
    """A checkpoint of that size under the names of `BertModel`, kernels [outputs, inputs]."""
    draw = np.random.default_rng(seed)

    def array(*shape):
        return (draw.normal(size=shape) * 0.7).astype(np.float32)

    dim, hidden = ENCODER.dim, ENCODER.mlp_dim
    found = {
        "embeddings.position_ids": np.arange(9)[None],
        "embeddings.word_embeddings.weight": array(13, dim),
        "embeddings.position_embeddings.weight": array(9, dim),
        "embeddings.token_type_embeddings.weight": array(2, dim),
        "pooler.dense.weight": array(dim, dim),
        "pooler.dense.bias": array(dim),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(ENCODER.depth):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        sizes = dict.fromkeys([f"attention.self.{name}" for name in ("query", "key", "value")], (dim, dim))
        sizes |= {
            "attention.output.dense": (dim, dim),
            "intermediate.dense": (hidden, dim),
            "output.dense": (dim, hidden),
        }
        for name, (outputs, inputs) in sizes.items():
            found |= {f"{layer}.{name}.weight": array(outputs, inputs), f"{layer}.{name}.bias": array(outputs)}
    for name in norms:
        found |= {f"{name}.weight": 1 + array(dim), f"{name}.bias": array(dim)}
    return found


def norm(w, name, x):
    x = x - x.mean()
    return x / math.sqrt((x**2).mean() + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def gelu(x):
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def slow_bert(w, tokens):
    """Vectors [T D] of one text, in float64."""
    w = {name: np.asarray(a, np.float64) for name, a in w.items()}
    x = [
        norm(
            w,
            "embeddings.LayerNorm",
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][t]
            + w["embeddings.token_type_embeddings.weight"][0],
        )
        for t, token in enumerate(tokens)
    ]
    width = ENCODER.dim // ENCODER.num_heads
    for i in range(ENCODER.depth):
        layer = f"encoder.layer.{i}"
        query, key, value = (
            [linear(w, f"{layer}.attention.self.{n}", v) for v in x] for n in ("query", "key", "value")
        )
        attended = []
        for t in range(len(x)):
            heads = []
            for h in range(ENCODER.num_heads):
                own = slice(h * width, (h + 1) * width)
                scores = np.exp([query[t][own] @ k[own] / math.sqrt(width) for k in key])
                heads.append(sum(s * v[own] for s, v in zip(scores / scores.sum(), value, strict=True)))
            out = linear(w, f"{layer}.attention.output.dense", np.concatenate(heads))
            attended.append(norm(w, f"{layer}.attention.output.LayerNorm", x[t] + out))
        hidden = [gelu(linear(w, f"{layer}.intermediate.dense", v)) for v in attended]
        x = [
            norm(w, f"{layer}.output.LayerNorm", v + linear(w, f"{layer}.output.dense", a))
            for v, a in zip(attended, hidden, strict=True)
        ]
    return np.array(x)


def test_equals_numpy():
    weights = tensors()
    params = jax.tree.map(jnp.asarray, params_from(weights, ENCODER))
    tokens = np.random.default_rng(1).integers(0, 13, (3, 7))
    mask = np.arange(7)[None, :] < np.array([[7], [4], [1]])
    found = ENCODER.apply(params, jnp.asarray(tokens, jnp.int32), mask=jnp.asarray(mask))
    vectors = ENCODER.text_vectors(params, jnp.asarray(tokens, jnp.int32), mask=jnp.asarray(mask))
    for i, length in enumerate((7, 4, 1)):
        wanted = slow_bert(weights, tokens[i, :length])
        np.testing.assert_allclose(found[i, :length], wanted, rtol=1e-5, atol=1e-5)
        mean = wanted.mean(0)
        np.testing.assert_allclose(vectors[i], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-5)


def test_the_structure_is_the_encoders():
    shapes = jax.tree.map(lambda a: a.shape, params_from(tensors(), ENCODER))
    single = dataclasses.replace(ENCODER, depth=1)
    wanted = jax.tree.map(lambda a: a.shape, jax.eval_shape(single.init, jax.random.key(0)))
    assert shapes["embedding"] == wanted["embedding"]
    assert shapes["blocks"]["00"] == shapes["blocks"]["01"] == wanted["blocks"]["00"]


def test_wrong_weights():
    weights = tensors()
    with pytest.raises(SpecError, match=r"lack 'encoder.layer.2.attention.output.LayerNorm.weight' \[8\]"):
        params_from(weights, dataclasses.replace(ENCODER, depth=3))
    with pytest.raises(SpecError, match=r"no place for 'encoder.layer.1.*is depth=1 right"):
        params_from(weights, dataclasses.replace(ENCODER, depth=1))
    with pytest.raises(
        SpecError, match=r"word_embeddings.weight' has shape \[13, 8\], and the encoder needs \[14, 8\]"
    ):
        params_from(weights, dataclasses.replace(ENCODER, vocabulary_size=14))
