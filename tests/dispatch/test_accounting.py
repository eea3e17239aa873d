"""The accounting, counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.plans import ExpertChoice, Merge, SlotMix, TokenChoice
from moejax.dispatch.accounting import plan_metrics


def check(metrics, **expected):
    assert set(metrics) == {"dropped", "unserved", "padding", "capacity", "dead_experts", "served_load"}
    for name, value in expected.items():
        assert metrics[name].dtype == jnp.float32
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


def test_token_choice_with_capacity():
    # Four tokens, three experts, two choices, capacity 2 (slots as in test_assignment, expert 2 unused, one choice
    # not made). First choices: t0, t1 -> e0, t2 -> e1, t3 -> e0 is full. Second: t0 -> e1, t1 -> e1 is full,
    # t2 makes none, t3 -> e1 is full.
    # Made 7, served 4, dropped 3. t3 is served by nobody: 1 of 4. Slots 3 * 2 = 6, filled 4. Mean filled 4 / 3.
    expert = jnp.array([[[0, 1], [0, 1], [1, -1], [0, 1]]])
    plan = TokenChoice(expert, jnp.ones((1, 4, 2)), num_experts=3, capacity=2)
    check(
        plan_metrics(plan, num_tokens=4),
        dropped=3 / 7,
        unserved=1 / 4,
        padding=2 / 6,
        capacity=4 / 3,
        dead_experts=1 / 3,
        served_load=[0.5, 0.5, 0.0],
    )


def test_dropless_token_choice():
    # Two groups: e0 serves 2 + 1 tokens, e1 none in the first group and 1 in the second.
    plan = TokenChoice(jnp.array([[[0], [0]], [[1], [0]]]), jnp.ones((2, 2, 1)), num_experts=2)
    check(
        plan_metrics(plan, num_tokens=2),
        dropped=0,
        unserved=0,
        padding=0,
        capacity=4 / 4,
        dead_experts=0,
        served_load=[0.75, 0.25],
    )


def test_nothing_chosen():
    plan = TokenChoice(jnp.full((1, 3, 1), -1), jnp.ones((1, 3, 1)), num_experts=2, capacity=1)
    check(
        plan_metrics(plan, num_tokens=3),
        dropped=0,
        unserved=1,
        padding=1,
        capacity=0,
        dead_experts=1,
        served_load=[0.0, 0.0],
    )


def test_expert_choice():
    # Five tokens; experts choose {0, 3} and {3, 4}: tokens 1 and 2 are left.
    plan = ExpertChoice(jnp.array([[[0, 3], [3, 4]]]), jnp.ones((1, 2, 2)))
    check(
        plan_metrics(plan, num_tokens=5),
        dropped=0,
        unserved=2 / 5,
        padding=0,
        capacity=2,
        dead_experts=0,
        served_load=[0.5, 0.5],
    )


def test_slot_mix():
    # Three tokens, two experts of two slots. Token 2 enters no slot; both slots of expert 1 are empty.
    dispatch = jnp.zeros((1, 3, 2, 2)).at[0, 0, 0].set(0.5).at[0, 1, 0, 1].set(0.5)
    check(
        plan_metrics(SlotMix(dispatch, dispatch), num_tokens=3),
        dropped=0,
        unserved=1 / 3,
        padding=2 / 4,
        capacity=2 / 2,
        dead_experts=1 / 2,
        served_load=[1.0, 0.0],
    )


def test_merge():
    plan = Merge(jnp.array([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]))
    check(
        plan_metrics(plan, num_tokens=7),
        dropped=0,
        unserved=0,
        padding=0,
        capacity=7,
        dead_experts=1 / 3,
        served_load=[0.375, 0.625, 0.0],
    )


def test_no_gradient_flows():
    def total(weight):
        return sum(jnp.sum(value) for value in plan_metrics(Merge(weight), num_tokens=2).values())

    assert not jnp.any(jax.grad(total)(jnp.array([[0.25, 0.75]])))
