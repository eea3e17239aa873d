"""Students of equal size, chosen experts by hand, combinations counted, and the error that falls with finer experts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.granularity import Granularity, predict, start


def small(**fields):
    sizes = {
        "active": (1, 2),
        "ratio": 2,
        "active_units": 4,
        "dim": 3,
        "outputs": 2,
        "steps": 5,
        "batch": 16,
        "num_test": 50,
    }
    return Granularity(**(sizes | fields))


@pytest.mark.slow
def test_finer_students_err_less():
    study = Granularity(active=(1, 8), steps=1500)
    raw = {part: study.estimates(part) for part in study.parts}
    falls, _ = study.findings(raw)
    assert falls.measured == 1.0


def test_combinations_are_counted():
    assert Granularity().combinations() == {1: 8, 2: 120, 4: 35_960, 8: 4_426_165_368}


def test_students_have_the_same_experts_in_all():
    study = small(active=(1, 2, 4))
    sizes = [jax.eval_shape(lambda key, k=k: start(key, study, k), jax.random.key(0)) for k in study.active]
    for name in ("kernel", "bias", "out"):
        assert len({tree[name].shape for tree in sizes}) == 1
    assert [tree["router"].shape for tree in sizes] == [(3, 2), (3, 4), (3, 8)]


def test_experts_by_hand():
    # Three experts of one unit, two chosen: scores 2, 0, 1 choose the first and the third.
    params = {
        "router": jnp.asarray([[2.0, 0.0, 1.0]]),
        "kernel": jnp.asarray([[1.0, 1.0, -1.0]]),
        "bias": jnp.asarray([0.0, 0.0, 3.0]),
        "out": jnp.asarray([[1.0], [10.0], [100.0]]),
    }
    found, weights = jax.jit(predict, static_argnums=2)(params, jnp.ones((1, 1)), 2)
    share = math.exp(1) / (math.exp(1) + 1)
    np.testing.assert_allclose(weights, [[2 * share, 0, 2 * (1 - share)]], rtol=1e-6)
    np.testing.assert_allclose(found, [[2 * share * 1 + 2 * (1 - share) * 2 * 100]], rtol=1e-6)


def test_the_teacher_is_its_own_student():
    study = small()
    params = start(jax.random.key(0), study, 2)
    x = jax.random.normal(jax.random.key(1), (20, 3))
    _, weights = jax.jit(predict, static_argnums=2)(params, x, 2)
    assert np.all((np.asarray(weights) > 0).sum(axis=1) == 2)
    np.testing.assert_allclose(np.asarray(weights).sum(axis=1), 2, rtol=1e-6)


def test_a_small_run_has_all_its_numbers():
    study = small()
    raw = {part: study.estimates(part) for part in study.parts}
    np.testing.assert_array_equal(study.estimates("k=2")["error"], raw["k=2"]["error"])
    assert [one.expected.quantity for one in study.findings(raw)] == [
        "error falls from k=1 to k=2",
        "error at k=2 over that at k=1",
    ]
    assert study.chart(raw).curves[0].x.tolist() == [2, 6]


def test_misuse_is_refused():
    with pytest.raises(SpecError, match=r"cannot be shared by \[3\]"):
        small(active=(1, 3))
    with pytest.raises(SpecError, match="ascend"):
        small(active=(2, 1))
