"""The settings of tests/conftest.py hold: a test that could not fail would prove nothing."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jaxtyping import TypeCheckError

from moejax.linear.dense import Dense


def test_shapes_of_our_functions_are_checked():
    leaf = Dense(jnp.ones((3, 4)))
    assert leaf.matmul(jnp.ones((2, 3))).shape == (2, 4)
    with pytest.raises(TypeCheckError):
        leaf.matmul(jnp.ones((2, 3), jnp.int32))
    with pytest.raises(TypeCheckError):
        leaf.mix(jnp.ones((2,)))


def test_trees_of_shapes_names_and_axes_may_be_built():
    leaf = Dense(jnp.ones((3, 4)))
    assert jax.eval_shape(lambda: leaf).kernel.shape == (3, 4)
    assert jax.tree.map(lambda _: "name", leaf).kernel == "name"
    assert jax.tree_util.tree_flatten_with_path(leaf)[0][0][0] == (jax.tree_util.GetAttrKey("kernel"),)


def test_dtypes_and_ranks_are_not_promoted(lenient):
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(3, jnp.float32) + jnp.ones(3, jnp.int32)
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)
    with lenient():
        assert (jnp.ones((2, 3)) + jnp.ones(3, jnp.int32)).shape == (2, 3)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)),
        optax.adafactor(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(optax.linear_schedule(0.0, 1.0, 10), momentum=0.9)),
        optax.MultiSteps(optax.adamw(1e-3), 2),
    ],
    ids=["adamw", "adafactor", "sgd", "accumulated"],
)
def test_optax_runs_under_them(optimizer):
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4,))}

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    moved, state = params, optimizer.init(params)
    for _ in range(3):
        moved, state = step(moved, state)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    assert not jnp.array_equal(moved["a"], params["a"])
