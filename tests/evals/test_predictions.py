"""Predictions of a model that is a table: padding does not count, probabilities are those of the loss."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import TokenChoice
from moejax.evals.predictions import predict


class Brightness:
    """Class = brightness of the first pixel; two tokens per picture, both routed to the expert of the class."""

    def apply(self, params, state, images, *, key=None, return_plans=False):
        value = images[:, 0, 0, 0]
        logits = 4.0 * jnp.stack([1.0 - value, value], axis=-1)
        expert = jnp.repeat(value.astype(jnp.int32)[None, :, None], 2, axis=1).reshape(1, -1, 1)
        expert = jnp.repeat(value.astype(jnp.int32), 2)[None, :, None]
        plan = TokenChoice(expert, jnp.ones_like(expert, jnp.float32), num_experts=3)
        return types.SimpleNamespace(
            logits=logits,
            features=value[:, None],
            plans={"block_02": plan} if return_plans else {},
            metrics={"block_02/entropy": value.mean(), "block_00/entropy": value.sum()},
        )


def batches():
    image = np.zeros((4, 2, 2, 3), np.float32)
    image[[1, 3]] = 1.0
    yield {"image": image, "label": np.array([0, 1, 1, 1], np.int32), "mask": np.ones(4, bool)}
    last = np.zeros((4, 2, 2, 3), np.float32)
    last[0] = 1.0
    yield {"image": last, "label": np.array([1, 0, 0, 0], np.int32), "mask": np.array([True, False, False, False])}


def test_padding_does_not_count():
    found = predict(Brightness(), {}, {}, batches(), num_classes=2, num_tokens=2)
    assert found.labels.tolist() == [0, 1, 1, 1, 1]
    assert found.correct.tolist() == [True, True, False, True, True]
    layer = found.layers["block_02"]
    # Two tokens a picture: class 0 once to expert 0; class 1 once to expert 0 and three times to expert 1.
    np.testing.assert_array_equal(layer.mass_by_class, [[2, 0, 0], [2, 6, 0]])
    np.testing.assert_array_equal(layer.tokens_by_class, [2, 8])
    # Entropy: mean brightness 0.5 of four pictures; the padded batch holds its real picture alone: 1.
    assert layer.metrics["entropy"] / layer.examples == pytest.approx((4 * 0.5 + 1.0) / 5)


def test_links():
    found = predict(Brightness(), {}, {}, batches(), num_classes=2, num_tokens=2)
    np.testing.assert_allclose(found.probabilities[0], [1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))], rtol=1e-5)
    sigmoid = predict(Brightness(), {}, {}, batches(), num_classes=2, num_tokens=2, link="sigmoid", routing=False)
    high = 1 / (1 + np.exp(-4.0))
    np.testing.assert_allclose(sigmoid.probabilities[0], [high / (high + 0.5), 0.5 / (high + 0.5)], rtol=1e-5)
    assert sigmoid.layers == {}
    with pytest.raises(SpecError, match="Did you mean 'softmax'"):
        predict(Brightness(), {}, {}, batches(), num_classes=2, num_tokens=2, link="sofmax")
    with pytest.raises(SpecError, match="no batch"):
        predict(Brightness(), {}, {}, [], num_classes=2, num_tokens=2)
