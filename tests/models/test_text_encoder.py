"""The text encoder: stacked and single layers agree, padding is seen by nobody, vectors have length one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.tree import leaf_names
from moejax.models.text_encoder import EXAMPLES


@pytest.fixture(params=EXAMPLES, ids=["depth 2", "depth 1"])
def encoder(request):
    return request.param


def texts(encoder, batch=3, length=5):
    draw = np.random.default_rng(0)
    return jnp.asarray(draw.integers(0, encoder.vocabulary_size, (batch, length)), jnp.int32)


def test_every_kernel_is_a_leaf_by_name(encoder):
    params = jax.eval_shape(lambda: split_segments(encoder.init(jax.random.key(0))))
    names = leaf_names(params)
    places = (
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/out",
        "feed_forward/up",
        "feed_forward/down",
    )
    for layer in range(encoder.depth):
        assert {f"blocks/{layer:02d}/{place}/kernel" for place in places} <= set(names)


def test_layers_alone_equal_layers_stacked(encoder):
    params = encoder.init(jax.random.key(0))
    tokens = texts(encoder)
    stacked, alone = (jax.jit(encoder.apply)(p, tokens) for p in (params, split_segments(params)))
    np.testing.assert_allclose(stacked, alone, rtol=1e-5, atol=1e-5)


def test_padding_is_seen_by_nobody(encoder):
    params = jax.tree.map(lambda a: a * 20 if a.ndim > 1 else a, encoder.init(jax.random.key(0)))
    tokens = texts(encoder)
    mask = jnp.arange(5)[None, :] < jnp.array([[5], [3], [1]])
    text_vectors = jax.jit(encoder.text_vectors)
    vectors = text_vectors(params, tokens, mask=mask)
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for i, length in enumerate((5, 3, 1)):
        alone = text_vectors(params, tokens[i : i + 1, :length])
        np.testing.assert_allclose(vectors[i], alone[0], rtol=1e-4, atol=1e-5)
    changed = text_vectors(params, jnp.where(mask, tokens, jnp.zeros_like(tokens)), mask=mask)
    np.testing.assert_allclose(vectors, changed, rtol=1e-5, atol=1e-6)


def test_positions_tell_words_apart(encoder):
    params = encoder.init(jax.random.key(0))
    tokens = texts(encoder, batch=1)
    text_vectors = jax.jit(encoder.text_vectors)
    assert not np.allclose(text_vectors(params, tokens), text_vectors(params, tokens[:, ::-1]), atol=1e-4)


def test_bfloat16_activations(encoder):
    encoder = dataclasses.replace(encoder, dtype="bfloat16")
    params = jax.eval_shape(encoder.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    assert jax.eval_shape(encoder.apply, params, tokens).dtype == jnp.bfloat16
    assert jax.eval_shape(encoder.text_vectors, params, tokens).dtype == jnp.float32


def test_bad_input(encoder):
    with pytest.raises(SpecError, match="num_heads=3 does not divide dim=8"):
        dataclasses.replace(encoder, num_heads=3)
    with pytest.raises(SpecError, match="epsilon=0.0 must be above 0"):
        dataclasses.replace(encoder, epsilon=0.0)
    with pytest.raises(SpecError, match="texts have 9 tokens and max_length=7"):
        jax.eval_shape(lambda: encoder.apply(encoder.init(jax.random.key(0)), jnp.zeros((1, 9), jnp.int32)))
