"""The shared leaf: one kernel, stored once, for however many experts."""

import jax.numpy as jnp
import numpy as np

from moejax.core.layouts import Buffers, Ragged
from moejax.linear.expert_axis import add_expert_axis, drop_expert_axis, take_experts
from moejax.linear.shared import Shared

KERNEL = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])


def test_all_experts_multiply_by_it():
    # (1, 1) -> (1, 1) and (2, 0) -> (2, 4); biases (0, 0) of the first expert and (1, 0) of the second; relu.
    bias = jnp.asarray([[0.0, 0.0], [1.0, 0.0]])
    rows = jnp.asarray([[1.0, 1.0], [2.0, 0.0]])
    leaf = Shared(KERNEL, 2)
    out = leaf.grouped_matmul(Ragged(rows, jnp.asarray([1, 1])), bias=bias, activation="relu")
    np.testing.assert_allclose(out.tokens, [[1.0, 1.0], [3.0, 4.0]])
    out = leaf.grouped_matmul(Buffers(rows[:, None]), bias=bias, activation="relu")
    np.testing.assert_allclose(out.tokens[:, 0], [[1.0, 1.0], [3.0, 4.0]])
    np.testing.assert_allclose(leaf.matmul(rows), [[1.0, 1.0], [2.0, 4.0]])


def test_it_costs_one_kernel_and_has_no_expert_axis():
    leaf = Shared(KERNEL, 7)
    assert leaf.num_params() == 4
    assert leaf.materialise().shape == (7, 2, 2)
    assert take_experts(leaf, (0, 0, 3)).materialise().shape == (3, 2, 2)
    one = drop_expert_axis({"up": leaf})["up"]
    assert one.materialise().shape == (2, 2)
    np.testing.assert_array_equal(add_expert_axis(one).kernel, KERNEL)


def test_mixed_by_weights_that_do_not_sum_to_one():
    mixed = Shared(KERNEL, 2).mix(jnp.asarray([[0.5, 0.5], [1.0, 1.0]]))
    np.testing.assert_allclose(mixed.kernel, jnp.stack([KERNEL, 2 * KERNEL]))
