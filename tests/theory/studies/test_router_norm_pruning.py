"""Planted patterns as said, experts and curves by hand, and the order of pruning that keeps the classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.router_norm_pruning import (
    RouterNormPruning,
    _pruned_accuracy,
    area_under_curve,
    draw_tokens,
    expert_outputs,
)


@pytest.mark.slow
def test_experts_that_grew_least_can_go():
    study = RouterNormPruning(num_seeds=4)
    findings = {one.expected.quantity: one for one in study.findings({"fine-tuned": study.estimates("fine-tuned")})}
    assert findings["area under the curve"].measured > 0.85
    assert findings["loss at half"].measured < 1
    assert findings["growth above random"].measured == findings["random above reversed"].measured == 1.0


def test_one_token_tells_the_class():
    study = RouterNormPruning()
    x, y = jax.jit(lambda key: draw_tokens(key, study, 300))(jax.random.key(0))
    pattern = np.argmax(np.asarray(x), axis=2)
    told = pattern < 2
    assert np.all(told.sum(axis=1) == 1)
    assert np.all(np.where(pattern[told] == 0, 1, -1) == np.asarray(y)) and set(np.argmax(told, axis=1)) == set(
        range(16)
    )


def test_experts_by_hand():
    # Three tokens along the axes; expert 1 takes tokens 0 and 1 with scores 2 and 1, expert 2 tokens 2 and 1 with equal scores 0.
    x = jnp.eye(3)[None]
    router = jnp.asarray([[2.0, -1.0], [1.0, 0.0], [0.0, 0.0]])
    expert = jnp.asarray([[[1.0], [2.0], [-1.0]], [[1.0], [3.0], [5.0]]])
    outputs = jax.jit(expert_outputs, static_argnums=2)({"router": router, "expert": expert}, x, 2)
    share = np.exp(2) / (np.exp(2) + np.exp(1))
    np.testing.assert_allclose(outputs, [[share * 1 + (1 - share) * 2, -(0.5 * 3 + 0.5 * 5)]], rtol=1e-6)


def test_areas_and_pruned_accuracies_by_hand():
    assert (
        area_under_curve(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])) == (1 + 1 + 0 + 0.5) / 4
    )
    assert np.isnan(area_under_curve(np.ones(2), np.ones(2, bool)))
    outputs = np.array([[[2.0, -1.0], [1.0, -3.0]]])  # one seed, two examples, two experts
    labels = np.array([[1.0, -1.0]])
    gone = np.array([[[0, 1]]])  # the first expert goes first
    # all: signs 1, -1, both right; without the first: -1, -1, half right
    assert _pruned_accuracy(outputs, labels, gone).tolist() == [[100.0, 50.0]]


def test_a_small_run_has_all_its_numbers():
    study = RouterNormPruning(num_seeds=3, steps=5, num_test=50)
    raw = {"fine-tuned": study.estimates("fine-tuned")}
    assert raw["fine-tuned"]["growth"].shape == (3, 16)
    assert [len(curve.x) for curve in study.chart(raw).curves] == [16] * 3 and len(study.findings(raw)) == 4
    start = raw["fine-tuned"]
    for order in ("random", "reversed"):  # nobody is gone yet
        np.testing.assert_allclose(start[f"accuracy-{order}"][:, 0], start["accuracy-norm growth"][:, 0], rtol=1e-6)


def test_misuse_is_refused():
    with pytest.raises(SpecError, match="num_experts=5 must be even"):
        RouterNormPruning(num_experts=5)
