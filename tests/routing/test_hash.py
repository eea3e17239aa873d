import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.hash import HashRouter

X = jnp.zeros((2, 4, 8))
STATE = {"table": jnp.asarray([2, 0, 1, 1], jnp.int32)}


def test_table_by_hand():
    router = HashRouter(num_experts=3, table_size=4)
    ids = jnp.asarray([[0, 5, 2, 3], [7, 4, 1, 1]], jnp.int32)
    # Ids modulo 4: (0, 1, 2, 3) and (3, 0, 1, 1).
    plan = router.route({}, STATE, X, token_ids=ids).plan
    np.testing.assert_array_equal(plan.expert[:, :, 0], [[2, 0, 1, 1], [1, 2, 0, 0]])
    np.testing.assert_array_equal(plan.weight, np.ones((2, 4, 1)))


def test_positions_are_ids_when_none_are_given():
    routed = HashRouter(num_experts=3, table_size=4).route({}, STATE, X, key=jax.random.key(0))
    np.testing.assert_array_equal(routed.plan.expert[:, :, 0], [[2, 0, 1, 1]] * 2)
    np.testing.assert_allclose(routed.metrics["load"], [0.25, 0.5, 0.25])
    assert routed.state is STATE


def test_table_is_balanced_fixed_and_random():
    router = HashRouter(num_experts=3, table_size=100)
    tables = [router.init(jax.random.key(i), 8)[1]["table"] for i in (0, 0, 1)]
    np.testing.assert_array_equal(np.bincount(tables[0]), [34, 33, 33])
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])


def test_table_smaller_than_the_experts():
    with pytest.raises(SpecError, match="table_size=2 is less than num_experts=3"):
        HashRouter(num_experts=3, table_size=2)
