"""Slots and realised weights, worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.plans import ExpertChoice, Merge, SlotMix, TokenChoice
from moejax.dispatch.assignment import buffer_capacity, realised, served_slots

# One group of four tokens, two experts, two choices each.
EXPERT = jnp.array([[[0, 1], [0, 1], [1, 0], [0, 1]]])
WEIGHT = jnp.array([[[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1]]])


def test_by_position():
    # First choices, by position: t0 -> e0 slot 0, t1 -> e0 slot 1, t2 -> e1 slot 0, t3 -> e0 would be slot 2: full.
    # Second choices: t0 -> e1 slot 1, t1 -> e1 full, t2 -> e0 full, t3 -> e1 full.
    plan = TokenChoice(EXPERT, WEIGHT, num_experts=2, capacity=2)
    np.testing.assert_array_equal(served_slots(plan), [[[0, 1], [1, -1], [0, -1], [-1, -1]]])
    expected = [[[0.6, 0.4], [0.7, 0.0], [0.0, 0.8], [0.0, 0.0]]]
    np.testing.assert_allclose(realised(plan, num_tokens=4), expected, rtol=1e-6)


def test_by_priority():
    # Served in the order t1, t2, t3, t0. First choices: t1 -> e0 slot 0, t2 -> e1 slot 0, t3 -> e0 slot 1, t0: e0 full.
    # Second choices: t1 -> e1 slot 1, then t2 (e0), t3 (e1) and t0 (e1) find their expert full.
    priority = jnp.array([[0.1, 0.4, 0.3, 0.2]])
    plan = TokenChoice(EXPERT, WEIGHT, priority, num_experts=2, capacity=2)
    np.testing.assert_array_equal(served_slots(plan), [[[-1, -1], [0, 1], [0, -1], [1, -1]]])


def test_ties_of_priority_go_by_position():
    expert = jnp.zeros((1, 4, 1), jnp.int32)
    plan = TokenChoice(expert, jnp.ones((1, 4, 1)), jnp.array([[1.0, 2.0, 1.0, 2.0]]), num_experts=1, capacity=3)
    # t1 and t3 (priority 2), then t0 and t2 (priority 1): t2 is the fourth and finds no slot.
    np.testing.assert_array_equal(served_slots(plan)[0, :, 0], [2, 0, -1, 1])


def test_half_capacity_drops_the_lower_half_of_the_priorities():
    # Eight tokens, alternately to e0 and e1, four each. Capacity 0.5 * 8 / 2 = 2: each expert keeps its best two.
    expert = jnp.arange(8, dtype=jnp.int32).reshape(1, 8, 1) % 2
    priority = jnp.array([[5.0, 1.0, 7.0, 2.0, 0.0, 9.0, 6.0, 3.0]])
    plan = TokenChoice(expert, jnp.ones((1, 8, 1)), priority, num_experts=2, capacity=2)
    # e0 has t0 (5), t2 (7), t4 (0), t6 (6): t2 and t6 stay. e1 has t1 (1), t3 (2), t5 (9), t7 (3): t5 and t7 stay.
    assert np.flatnonzero(served_slots(plan)[0, :, 0] >= 0).tolist() == [2, 5, 6, 7]


def test_choices_not_made_take_no_slot():
    expert = jnp.array([[[0, -1], [-1, 0], [-1, -1]]])
    plan = TokenChoice(expert, jnp.ones((1, 3, 2)), num_experts=2, capacity=2)
    # t0's first choice takes slot 0; t1's second choice comes next and takes slot 1; the other choices do not exist.
    np.testing.assert_array_equal(served_slots(plan), [[[0, -1], [-1, 1], [-1, -1]]])
    np.testing.assert_array_equal(realised(plan, num_tokens=3), [[[1, 0], [1, 0], [0, 0]]])


def test_dropless_serves_all():
    plan = TokenChoice(EXPERT, WEIGHT, num_experts=2)
    np.testing.assert_array_equal(served_slots(plan), [[[0, 1], [1, 2], [0, 3], [2, 3]]])
    assert buffer_capacity(plan) == 4


def test_groups_are_served_by_themselves():
    plan = TokenChoice(jnp.zeros((3, 2, 1), jnp.int32), jnp.ones((3, 2, 1)), num_experts=1, capacity=1)
    np.testing.assert_array_equal(served_slots(plan)[:, :, 0], [[0, -1]] * 3)


def test_realised_of_the_other_plans():
    chosen = ExpertChoice(jnp.array([[[2, 0], [2, 1]]]), jnp.array([[[0.5, 0.25], [0.125, 1.0]]]))
    np.testing.assert_array_equal(realised(chosen, num_tokens=3), [[[0.25, 0], [0, 1.0], [0.5, 0.125]]])
    combine = jnp.arange(8.0).reshape(1, 2, 2, 2)  # token 0: slots 0 1 | 2 3, token 1: slots 4 5 | 6 7
    np.testing.assert_array_equal(realised(SlotMix(combine, combine), num_tokens=2), [[[1, 5], [9, 13]]])
    np.testing.assert_array_equal(realised(Merge(jnp.array([[0.25, 0.75]])), num_tokens=2), [[[0.25, 0.75]] * 2])


@pytest.mark.parametrize("seed", range(4))
def test_random_plans_against_counting(seed):
    draw = np.random.default_rng(seed)
    expert = draw.integers(-1, 5, (3, 11, 2))
    priority = draw.permutation(33).reshape(3, 11).astype(np.float32)
    plan = TokenChoice(
        jnp.asarray(expert, jnp.int32), jnp.ones((3, 11, 2)), jnp.asarray(priority), num_experts=5, capacity=4
    )
    slots = np.full((3, 11, 2), -1)
    for group in range(3):
        filled = [0] * 5
        for choice in range(2):
            for token in np.argsort(-priority[group]):
                e = expert[group, token, choice]
                if e >= 0 and filled[e] < 4:
                    slots[group, token, choice] = filled[e]
                    filled[e] += 1
    np.testing.assert_array_equal(served_slots(plan), slots)
