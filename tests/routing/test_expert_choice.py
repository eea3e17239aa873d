"""Expert choice by hand: 4 tokens x 3 experts; tokens are one-hot, so gates are read off the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.routing.expert_choice import ExpertChoiceRouter

GATES = np.asarray([[0.7, 0.2, 0.1], [0.6, 0.25, 0.15], [0.5, 0.1, 0.4], [0.2, 0.75, 0.05]], np.float32)


def route(gates=GATES, **fields):
    router = ExpertChoiceRouter(num_experts=gates.shape[1], **fields)
    return jax.jit(router.route)({"kernel": jnp.log(gates)}, {}, jnp.eye(len(gates))[None])


def test_every_expert_takes_its_best_tokens():
    # C = 1.5 * 4 / 3 = 2. Expert 0: tokens 0 (0.7), 1 (0.6); expert 1: 3 (0.75), 1 (0.25); expert 2: 2 (0.4), 1 (0.15).
    plan = route(capacity_factor=1.5).plan
    np.testing.assert_array_equal(plan.token[0], [[0, 1], [3, 1], [2, 1]])
    np.testing.assert_allclose(plan.weight[0], [[0.7, 0.6], [0.75, 0.25], [0.4, 0.15]], rtol=1e-5)


def test_capacity_rounds_up_by_default():
    assert route(capacity_factor=1.0).plan.token.shape == (1, 3, 2)  # 4 / 3 -> 2
    assert route(capacity_factor=1.0, capacity_rounding="round").plan.token.shape == (1, 3, 1)  # 1.33 -> 1
    assert route(capacity_factor=1.0, capacity_multiple=4).plan.token.shape == (1, 3, 4)
    assert route(capacity_factor=3.0).plan.token.shape == (1, 3, 4)  # every expert, every token


# Expert 0 and 1 both like token 0 best, so token 2 goes unserved unless the scores are balanced.
CONTESTED = np.asarray([[0.5, 0.4, 0.1], [0.1, 0.3, 0.6], [0.35, 0.35, 0.3]], np.float32)


def test_sparse_transport_serves_the_token_that_softmax_leaves_out():
    # One slot each. Softmax: 0 -> token 0 (0.5), 1 -> token 0 (0.4), 2 -> token 1 (0.6). As an assignment of all tokens,
    # 0 -> 0, 1 -> 2, 2 -> 1 is worth 0.5 + 0.35 + 0.6 = 1.45, the most of all six.
    np.testing.assert_array_equal(route(CONTESTED).plan.token[0, :, 0], [0, 0, 1])
    plan = route(CONTESTED, scores="sparse_transport").plan
    np.testing.assert_array_equal(plan.token[0, :, 0], [0, 2, 1])
    np.testing.assert_allclose(plan.weight[0, :, 0], [0.5, 0.35, 0.6], rtol=1e-5)


def test_sinkhorn_scores_change_the_choice_and_keep_softmax_weights():
    # The balanced plan below has rows and columns of one; four times its first column, rows rescaled, is what the router
    # sees: row sums 2.5, 2.2, 1.3. Sinkhorn undoes rows and columns. For expert 2 softmax ranks 0.38 / 1.3 = 0.292 (token 2)
    # above 0.42 / 2.2 = 0.191 (token 1); the plan ranks 0.42 above 0.38, and so token 1 is served.
    plan = np.asarray([[0.5, 0.3, 0.2], [0.4, 0.18, 0.42], [0.1, 0.52, 0.38]])
    gates = plan * np.asarray([[4.0, 1.0, 1.0]])
    gates = (gates / gates.sum(axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_array_equal(route(gates).plan.token[0, :, 0], [0, 2, 2])
    balanced = route(gates, scores="sinkhorn", num_iterations=50).plan
    np.testing.assert_array_equal(balanced.token[0, :, 0], [0, 2, 1])
    np.testing.assert_allclose(balanced.weight[0, :, 0], [2.0 / 2.5, 0.52 / 1.3, 0.42 / 2.2], rtol=1e-5)


def test_bad_fields():
    with pytest.raises(SpecError, match="num_iterations=0"):
        build_method("routing", {"name": "expert_choice", "num_experts": 3, "num_iterations": 0})
    with pytest.raises(SpecError, match="Did you mean 'sinkhorn'"):
        build_method("routing", {"name": "expert_choice", "num_experts": 3, "scores": "sinkhron"})
