"""Healing: the divergence falls, and wrong specs are refused."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import ModelOutput
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.tasks.classification import Classification
from moejax.train.heal import Heal, heal


@dataclasses.dataclass(frozen=True)
class Linear:
    """logits = image @ w."""

    def apply(self, params, state, images, *, key=None):
        logits = params["w"].matmul(images)
        return ModelOutput(logits=logits, features=images, state=state, losses={}, metrics={}, plans={})


def setting():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 4)).astype(np.float32)
    images = rng.normal(size=(64, 6)).astype(np.float32)
    labels = np.argmax(images @ kernel, -1).astype(np.int32)
    u, s, v = np.linalg.svd(kernel, full_matrices=False)
    cut = LowRank(jnp.asarray(u[:, :2] * s[:2]), jnp.asarray(v[:2]))
    batches = itertools.cycle([{"image": jnp.asarray(images), "label": jnp.asarray(labels)}])
    return Classification(model=Linear()), {"w": cut}, {"w": Dense(jnp.asarray(kernel))}, batches


@pytest.mark.parametrize("kind", ["distill", "finetune"])
def test_the_loss_falls_and_factors_stay_factors(kind):
    task, cut, original, batches = setting()
    healed = heal(Heal(kind=kind, steps=60, learning_rate=0.02), task, cut, {}, original, batches)
    assert healed.last < 0.9 * healed.first
    assert healed.params["w"].u.shape == (6, 2) and not np.array_equal(healed.params["w"].u, cut["w"].u)


def test_the_first_loss_is_the_divergence_by_hand():
    task, cut, original, batches = setting()
    healed = heal(Heal(steps=1), task, cut, {}, original, batches)
    images = next(batches)["image"]
    p, q = (
        np.asarray(jax.nn.softmax(task.model.apply(tree, {}, images).logits), np.float64) for tree in (original, cut)
    )
    assert healed.first == healed.last == pytest.approx(np.mean(np.sum(p * np.log(p / q), -1)), rel=1e-4)


def test_healing_towards_oneself_moves_nothing():
    task, _, original, batches = setting()
    assert heal(Heal(steps=2), task, original, {}, original, batches).last < 1e-6


def test_wrong_specs():
    task, cut, original, batches = setting()
    with pytest.raises(SpecError, match="heal.steps=-1"):
        Heal(steps=-1)
    with pytest.raises(SpecError, match="heals nothing"):
        heal(Heal(steps=0), task, cut, {}, original, batches)
    with pytest.raises(SpecError, match="left the finite numbers"):
        heal(Heal(steps=2), task, {"w": Dense(jnp.full((6, 4), jnp.nan))}, {}, original, batches)
