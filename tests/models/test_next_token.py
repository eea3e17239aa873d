"""What is drawn from, by hand and by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.models.next_token import GREEDY, NextToken

PROBABILITY = np.array([0.1, 0.5, 0.25, 0.15])
LOGITS = jnp.log(jnp.asarray(PROBABILITY[None], jnp.float32)) + 2.0


def left(rule):
    return np.asarray(jax.nn.softmax(rule.restrict(LOGITS)))[0]


def test_restrictions_by_hand():
    np.testing.assert_allclose(left(NextToken(temperature=1.0)), PROBABILITY, rtol=1e-5)
    # The squares are 0.01, 0.25, 0.0625, 0.0225, their sum 0.345.
    np.testing.assert_allclose(left(NextToken(temperature=0.5)), PROBABILITY**2 / 0.345, rtol=1e-5)
    np.testing.assert_allclose(left(NextToken(temperature=1.0, top_k=2)), [0, 2 / 3, 1 / 3, 0], rtol=1e-5)
    # 0.5 is below 0.6, 0.5 + 0.25 reaches it: two tokens. 0.5 alone reaches 0.4: one. 0.9 needs the third, 0.91 the fourth.
    np.testing.assert_allclose(left(NextToken(temperature=1.0, top_p=0.6)), [0, 2 / 3, 1 / 3, 0], rtol=1e-5)
    np.testing.assert_allclose(left(NextToken(temperature=1.0, top_p=0.4)), [0, 1, 0, 0], rtol=1e-5)
    assert (left(NextToken(temperature=1.0, top_p=0.85)) > 0).tolist() == [False, True, True, True]
    assert (left(NextToken(temperature=1.0, top_p=0.95)) > 0).all()
    # Top-k first: of 2/3 and 1/3 the first alone reaches 0.6.
    np.testing.assert_allclose(left(NextToken(temperature=1.0, top_k=2, top_p=0.6)), [0, 1, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(left(NextToken(temperature=1.0, top_k=9)), PROBABILITY, rtol=1e-5)


def test_draws_have_these_frequencies():
    many = jnp.broadcast_to(LOGITS, (20_000, 4))
    tokens = np.asarray(NextToken(temperature=1.0, top_k=3).choose(many, jax.random.key(0)))
    found = np.bincount(tokens, minlength=4) / len(tokens)
    expected = np.array([0, 0.5, 0.25, 0.15]) / 0.9
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / len(tokens)))


def test_greedy_draws_nothing():
    assert GREEDY.choose(LOGITS, None).tolist() == [1]
    assert GREEDY.choose(jnp.array([[0.0, 1.0, 1.0]]), None).tolist() == [1]  # the first of equals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0 must be at least 1"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p=1.5 must be above 0"),
        ({"top_k": 3}, "temperature=0 draws nothing"),
    ],
)
def test_bad_rules(fields, message):
    with pytest.raises(SpecError, match=message):
        NextToken(**fields)


def test_drawing_needs_a_key():
    with pytest.raises(SpecError, match=r"temperature=0.7 draws tokens, which needs a key"):
        NextToken(temperature=0.7).choose(LOGITS, None)
