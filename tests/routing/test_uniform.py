import jax
import jax.numpy as jnp
import numpy as np

from moejax.routing.uniform import UniformRouter

X = jnp.zeros((3, 4, 8))


def test_round_robin_without_a_key():
    plan = UniformRouter(num_experts=3).route({}, {}, X).plan
    np.testing.assert_array_equal(plan.expert[0, :, 0], [0, 1, 2, 0])
    np.testing.assert_array_equal(plan.weight, np.ones((3, 4, 1)))
    # Two each: 0 1 | 2 0 | 1 2 | 0 1, weight one half.
    plan = UniformRouter(num_experts=3, num_selected_experts=2).route({}, {}, X).plan
    np.testing.assert_array_equal(plan.expert[2], [[0, 1], [2, 0], [1, 2], [0, 1]])
    np.testing.assert_array_equal(plan.weight, np.full((3, 4, 2), 0.5))


def test_random_and_balanced_with_a_key():
    router = UniformRouter(num_experts=3, num_selected_experts=2)
    route = jax.jit(router.route)
    seen = set()
    for seed in range(5):
        plan = route({}, {}, X, key=jax.random.key(seed)).plan
        for group in np.asarray(plan.expert):
            assert sorted(np.bincount(group.ravel())) == [2, 3, 3]  # 8 choices over 3 experts
            assert (group[:, 0] != group[:, 1]).all()
            seen.add(group.tobytes())
    assert len(seen) > 5  # groups differ from each other and from key to key
