"""Routing statistics on paper."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.plans import Merge, SlotMix, TokenChoice
from moejax.evals.routing_statistics import LayerStatistics, expert_mass, mutual_information, summarise


def test_mutual_information():
    assert mutual_information(np.array([[5.0, 0.0], [0.0, 5.0]])) == pytest.approx(1.0)  # the class names the expert
    assert mutual_information(np.array([[2.0, 4.0], [1.0, 2.0]])) == pytest.approx(0.0)  # proportional rows
    assert mutual_information(np.zeros((2, 2))) == 0.0
    # Joint 1/2, 1/4, 0, 1/4; rows 3/4, 1/4; columns 1/2, 1/2.
    # 1/2 log2(4/3) + 1/4 log2(2/3) + 1/4 log2 2 = 0.20752 - 0.14624 + 0.25 = 0.31128.
    assert mutual_information(np.array([[2.0, 1.0], [0.0, 1.0]])) == pytest.approx(0.311278, abs=1e-6)


def test_mass_counts_served_choices_only():
    # Both tokens want expert 1, which has one slot; the second is dropped.
    plan = TokenChoice(jnp.array([[[1], [1]]]), jnp.array([[[0.6], [0.7]]]), num_experts=3, capacity=1)
    np.testing.assert_array_equal(expert_mass(plan, num_tokens=2, batch=1), [[[0, 1, 0], [0, 0, 0]]])


def test_mass_of_mixtures_is_their_weight():
    combine = jnp.array([[[[0.1, 0.2], [0.3, 0.4]]]])  # one token, two experts of two slots
    plan = SlotMix(dispatch=jnp.ones_like(combine), combine=combine)
    np.testing.assert_allclose(expert_mass(plan, num_tokens=1, batch=1), [[[0.3, 0.7]]], rtol=1e-6)
    merged = expert_mass(Merge(jnp.array([[0.25, 0.75]])), num_tokens=4, batch=2)  # a group of two sequences
    np.testing.assert_allclose(merged, np.broadcast_to([0.25, 0.75], (2, 2, 2)), rtol=1e-6)


def test_summary_of_a_layer():
    layer = LayerStatistics(np.zeros((2, 3)), np.zeros(2))
    # Two pictures of class 0 and one of class 1, four tokens each; expert 2 gets nothing, one token of class 0 is dropped.
    layer.add(np.array([[4.0, 0, 0], [3.0, 0, 0]]), np.array([0, 0]), {"entropy": 0.5}, num_tokens=4)
    layer.add(np.array([[1.0, 3.0, 0]]), np.array([1]), {"entropy": 0.8}, num_tokens=4)
    found = summarise(layer, class_names=("a", "b"), domain_names=("only",), class_domains=(0, 0))
    np.testing.assert_allclose(found["realised_load"], [8 / 11, 3 / 11, 0])
    np.testing.assert_allclose(found["expert_by_class"], [[7 / 8, 1 / 4], [0, 3 / 4], [0, 0]])
    np.testing.assert_allclose(found["expert_by_domain"], [[8 / 12], [3 / 12], [0]])
    assert found["dead_experts"] == pytest.approx(1 / 3)
    assert found["metrics"]["entropy"] == pytest.approx((2 * 0.5 + 0.8) / 3)
    assert found["mutual_information_domain"] == 0.0
