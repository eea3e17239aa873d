"""Distillation losses by hand, and where their gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.diffusion.distillation import distillation_loss, group_feature_loss, output_loss


def test_output_by_hand():
    student = jnp.array([[[1.0, 2.0]], [[0.0, 0.0]]])
    teacher = jnp.array([[[1.0, 4.0]], [[3.0, -1.0]]])
    np.testing.assert_allclose(output_loss(student, teacher), [4 / 2, 10 / 2])
    np.testing.assert_allclose(output_loss(teacher, teacher), 0)


def test_groups_weigh_alike_whatever_their_magnitude():
    teacher = {"00-01": jnp.full((2, 3, 4), 2.0), "02-03": jnp.full((2, 3, 4), 200.0)}
    student = {name: tokens * jnp.array([1.0, 1.5])[:, None, None] for name, tokens in teacher.items()}
    # The second example is half the teacher's size off in both groups: (0.5 s)^2 / s^2.
    np.testing.assert_allclose(group_feature_loss(student, teacher), [0, 0.25], atol=1e-6)


def test_no_gradient_reaches_the_teacher():
    def total(student, teacher):
        features = group_feature_loss({"a": student}, {"a": teacher})
        balance = jnp.asarray(0.3)
        return distillation_loss(output_loss(student, teacher), features, balance, feature_weight=2.0)

    student, teacher = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 3.0)
    # output 4, features 4 / 9, balance 0.3
    np.testing.assert_allclose(total(student, teacher), 4 + 2 * 4 / 9 + 0.3, rtol=1e-6)
    own, others = jax.grad(total, argnums=(0, 1))(student, teacher)
    assert not np.any(others)
    np.testing.assert_allclose(own, (-4 / 24) * (1 + 2 / 9), rtol=1e-5)


def test_what_does_not_fit():
    with pytest.raises(SpecError, match=r"student \[2, 3\] and teacher \[2, 4\]"):
        output_loss(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(SpecError, match=r"found \['a'\] and \['b'\]"):
        group_feature_loss({"a": jnp.ones((1, 1, 1))}, {"b": jnp.ones((1, 1, 1))})
    with pytest.raises(SpecError, match="feature_weight=-1.0"):
        distillation_loss(jnp.ones(1), jnp.ones(1), jnp.ones(()), feature_weight=-1.0)
