"""Embeddings of time and class against NumPy, dropped labels, and labels that the table does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.conditioning import LabelEmbedding, TimeEmbedding, time_features


def test_time_features_are_those_of_the_published_code() -> None:
    time = np.asarray([0.0, 1.0, 250.5, 999.0])
    frequency = np.exp(-np.log(10_000.0) * np.arange(128) / 128)
    angle = time[:, None] * frequency
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    found = time_features(jnp.asarray(time, jnp.float32), 256)
    np.testing.assert_allclose(found, expected, atol=2e-4)  # float32 angles up to 999
    # By hand: width 4 has the frequencies 1 and 1/100.
    np.testing.assert_allclose(
        time_features(jnp.asarray([2.0]), 4), [[-0.416147, 0.9998, 0.909297, 0.0199987]], rtol=1e-5
    )
    with pytest.raises(SpecError, match="width=5 of the time features must be even"):
        time_features(jnp.zeros(1), 5)


def test_time_embedding_is_two_layers_with_silu_between() -> None:
    layer = TimeEmbedding(width=4)
    params = layer.init(jax.random.key(0), 3)
    assert params["hidden"].kernel.shape == (4, 3) and params["out"].kernel.shape == (3, 3)
    params["hidden_bias"] = jnp.asarray([0.1, -0.2, 0.3])
    time = jnp.asarray([0.0, 7.0])
    hidden = np.asarray(time_features(time, 4)) @ np.asarray(params["hidden"].kernel) + np.asarray([0.1, -0.2, 0.3])
    expected = (hidden / (1 + np.exp(-hidden))) @ np.asarray(params["out"].kernel)
    np.testing.assert_allclose(layer.apply(params, time, "float32"), expected, rtol=1e-5)
    assert layer.apply(params, time, "bfloat16").dtype == jnp.bfloat16
    wide = TimeEmbedding().init(jax.random.key(1), 64)
    np.testing.assert_allclose(np.std(wide["hidden"].kernel), 0.02, rtol=0.05)
    np.testing.assert_array_equal(wide["out_bias"], 0.0)


def embedded(layer: LabelEmbedding, label, key=None):
    """The labels that were looked up, read off a table whose rows say their number."""
    table = jnp.broadcast_to(jnp.arange(layer.num_labels, dtype=jnp.float32)[:, None], (layer.num_labels, 2))
    return np.asarray(layer.apply(table, jnp.asarray(label, jnp.int32), key=key))[:, 0]


def test_labels_are_dropped_with_a_key_only() -> None:
    label = np.arange(2000) % 5
    always, never = LabelEmbedding(num_classes=5, dropout=1.0), LabelEmbedding(num_classes=5)
    np.testing.assert_array_equal(embedded(always, label, jax.random.key(0)), 5.0)
    np.testing.assert_array_equal(embedded(always, label), label)
    np.testing.assert_array_equal(embedded(never, label, jax.random.key(0)), label)
    some = LabelEmbedding(num_classes=5, dropout=0.1)
    found = embedded(some, label, jax.random.key(0))
    dropped = found == 5.0
    np.testing.assert_array_equal(found[~dropped], label[~dropped])
    assert abs(dropped.mean() - 0.1) < 4 * np.sqrt(0.09 / 2000)
    np.testing.assert_array_equal(embedded(some, label), label)
    np.testing.assert_array_equal(found, embedded(some, label, jax.random.key(0)))


def test_the_table_has_a_row_for_no_class_where_labels_are_dropped() -> None:
    assert LabelEmbedding(num_classes=1000).init(jax.random.key(0), 4).shape == (1000, 4)
    table = LabelEmbedding(num_classes=1000, dropout=0.1).init(jax.random.key(0), 4)
    assert table.shape == (1001, 4)
    np.testing.assert_allclose(np.std(table), 0.02, rtol=0.05)


def test_labels_out_of_range() -> None:
    plain, dropping = LabelEmbedding(num_classes=5), LabelEmbedding(num_classes=5, dropout=0.1)
    np.testing.assert_array_equal(embedded(dropping, [5, 0]), [5.0, 0.0])
    with pytest.raises(SpecError, match="label 5 is the null label.*train with label_dropout > 0"):
        embedded(plain, [5, 0])
    with pytest.raises(SpecError, match="label 7 is out of range; classes are 0 to 4, or 5 for none"):
        embedded(dropping, [0, 7])
    with pytest.raises(SpecError, match="label -1 is out of range; classes are 0 to 4"):
        embedded(plain, [-1])
    # Where the values are not known, the result says it.
    compiled = jax.jit(lambda table, label: plain.apply(table, label))(jnp.ones((5, 2)), jnp.asarray([4, 5, -1]))
    np.testing.assert_array_equal(np.isnan(compiled), [[False] * 2, [True] * 2, [True] * 2])


def test_embeddings_that_cannot_be() -> None:
    with pytest.raises(SpecError, match=r"label_dropout=-0.1 must lie in \[0, 1\]"):
        LabelEmbedding(num_classes=3, dropout=-0.1)
    with pytest.raises(SpecError, match="num_classes=0"):
        LabelEmbedding(num_classes=0)
