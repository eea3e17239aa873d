"""Optimiser rules by hand on trees of one number per leaf."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.core.tree import flatten
from moejax.train.optimizers import Optimizer

PARAMS = {"body": {"kernel": jnp.full((1,), 2.0)}, "head": {"kernel": jnp.full((1,), 4.0), "bias": jnp.full((1,), 1.0)}}
GRADS = {"body": {"kernel": jnp.full((1,), 3.0)}, "head": {"kernel": jnp.full((1,), 0.0), "bias": jnp.full((1,), 4.0)}}
PLAIN = {"name": "sgd", "learning_rate": 0.5, "schedule": "constant", "momentum": 0.0}


def updates(steps=1, grads=GRADS, **fields):
    """{leaf name: its last update} after `steps` updates with the same gradient."""
    transformation = Optimizer(**fields).build(PARAMS, 10)
    state = transformation.init(PARAMS)
    for _ in range(steps):
        update, state = transformation.update(grads, state, PARAMS)
    return {name: float(leaf[0]) for name, leaf in flatten(update).items()}


def test_sgd():
    # -0.5 * gradient
    assert updates(**PLAIN) == pytest.approx({"body/kernel": -1.5, "head/kernel": 0.0, "head/bias": -2.0})


def test_sgd_momentum():
    # Second step: trace 3 + 0.5 * 3 = 4.5, times -0.5.
    assert updates(2, **PLAIN | {"momentum": 0.5})["body/kernel"] == pytest.approx(-2.25)


def test_adamw_first_step_and_decay():
    # First step of Adam is the sign: -0.5 * 3/|3| = -0.5; decay on kernels only: -0.5 * 0.1 * value.
    found = updates(learning_rate=0.5, schedule="constant", weight_decay=0.1)
    assert found == pytest.approx({"body/kernel": -0.5 - 0.1, "head/kernel": -0.2, "head/bias": -0.5}, abs=1e-5)


def test_decay_rules_first_match_wins():
    # head/kernel matches '^head' first: half the decay, -0.5 * (0.1 * 0.5) * 4 = -0.1; its bias decays too.
    found = updates(**PLAIN, weight_decay=0.1, weight_decay_rules=(("^head", 0.5), ("kernel$", 1.0)))
    assert found == pytest.approx({"body/kernel": -1.5 - 0.1, "head/kernel": -0.1, "head/bias": -2.0 - 0.025})


def test_learning_rate_rules_scale_decay_too(caplog):
    with caplog.at_level(logging.INFO):
        found = updates(**PLAIN, weight_decay=0.1, learning_rate_rules=(("body", 0.1), ("bias", 2.0)))
    # body: 0.1 * -(1.5 + 0.1); bias: 2 * -2.
    assert found == pytest.approx({"body/kernel": -0.16, "head/kernel": -0.2, "head/bias": -4.0})
    assert "optimizer.learning_rate_rules: body/kernel matches 'body' -> 0.1" in caplog.text


def test_clipping_by_the_global_norm():
    # Norm sqrt(3^2 + 4^2) = 5, clipped to 1: gradients 0.6 and 0.8.
    assert updates(**PLAIN, clip_norm=1.0) == pytest.approx(
        {"body/kernel": -0.3, "head/kernel": 0.0, "head/bias": -0.4}
    )


def test_frozen_leaves_do_not_move_nor_count_nor_cost():
    fields = PLAIN | {"momentum": 0.9, "clip_norm": 1.0, "frozen": ("bias$",), "weight_decay": 0.1}
    found = updates(**fields)
    # The norm is that of body alone, 3: clipped to 1. Decay: -0.5 * 0.1 * 2 = -0.1 and -0.5 * 0.1 * 4 = -0.2.
    assert found == pytest.approx({"body/kernel": -0.6, "head/kernel": -0.2, "head/bias": 0.0})
    memory = Optimizer(**fields).build(PARAMS, 10).init(PARAMS)
    assert [leaf.shape for name, leaf in flatten(memory).items() if "bias" in name] == []


def test_frozen_with_leaf_rates():
    found = updates(**PLAIN, frozen=("^body",), learning_rate_rules=(("bias", 0.5),))
    assert found == pytest.approx({"body/kernel": 0.0, "head/kernel": 0.0, "head/bias": -1.0})


@pytest.mark.lenient
def test_adafactor_learns_with_factored_moments():
    params = {"kernel": jnp.ones((130, 140))}
    transformation = Optimizer(name="adafactor", learning_rate=0.1, schedule="constant").build(params, 10)
    state = transformation.init(params)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state))
    assert 130 in sizes and 140 in sizes  # row and column moments
    update, _ = transformation.update({"kernel": jnp.ones((130, 140))}, state, params)
    assert float(update["kernel"].max()) < 0 and np.isfinite(update["kernel"]).all()


def test_schedule_drives_the_rate():
    # Linear from 1 to 0 over 10 steps: the third update has 0.5 * 0.8.
    assert updates(3, **PLAIN | {"schedule": "linear"})["body/kernel"] == pytest.approx(-0.5 * 0.8 * 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adam_w"}, "Did you mean 'adamw'"),
        ({"schedule": "cosinus"}, "Did you mean 'cosine'"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"clip_norm": 0.0}, "must be positive"),
        ({"weight_decay": -0.1}, "not be negative"),
        ({"b2": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        Optimizer(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen": ("haed",)}, "'haed' is found in no leaf name"),
        ({"learning_rate_rules": (("[", 1.0),)}, "is not a regular expression"),
        ({"weight_decay": 0.1, "weight_decay_rules": (("kernels", 1.0),)}, "'kernels' is found in no leaf name"),
        ({"frozen": (".",)}, "nothing is left to train"),
    ],
)
def test_patterns_that_match_nothing(fields, message):
    with pytest.raises(SpecError, match=message):
        Optimizer(**fields).build(PARAMS, 10)


def test_misspelt_key():
    with pytest.raises(SpecError, match="config.optimizer.learning_rat is not a field.*Did you mean 'learning_rate"):
        build_spec(Optimizer, {"learning_rat": 1.0}, path="config.optimizer")
