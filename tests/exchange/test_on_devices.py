"""Keys of devices, and what decides whether widths are split."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from moejax.core.errors import SpecError
from moejax.core.spec import examples
from moejax.exchange.on_devices import bank_specs, hidden_is_split, mesh_in_force, own_key
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.routing.top_k import TopKRouter
from moejax.sharding.mesh import MeshSpec


def keys_in(jaxpr):
    """How often a key is folded in anywhere."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "random_fold_in"
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                found += keys_in(inner) if hasattr(inner, "eqns") else 0
    return found


def test_experts_draw_another_mask_on_every_device():
    moe = MoE(
        router=TopKRouter(num_experts=4, noise_std=0.0), experts=MlpExperts(expert_dim=8, dropout_rate=0.5)
    )  # fmt: skip
    params, state = jax.eval_shape(lambda: moe.init(jax.random.key(0), 8))
    run = lambda params, x: moe.apply(params, state, x, key=jax.random.key(1)).tokens  # noqa: E731
    alone = keys_in(jax.make_jaxpr(run)(params, jnp.zeros((8, 3, 8))).jaxpr)
    with jax.sharding.use_abstract_mesh(MeshSpec(data=2, expert=4).abstract(8)):
        together = keys_in(jax.make_jaxpr(run)(params, jnp.zeros((8, 3, 8))).jaxpr)
    assert together > alone


def test_a_hidden_width_that_does_not_divide():
    moe = MoE(router=TopKRouter(num_experts=4, noise_std=0.0), experts=MlpExperts(expert_dim=6))
    params, state = jax.eval_shape(lambda: moe.init(jax.random.key(0), 8))
    with (
        jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=2, model=4).abstract(8)),
        pytest.raises(SpecError, match="kernel has an axis of 6, which 4 devices along .'model',. do not divide"),
    ):
        jax.eval_shape(lambda params, x: moe.apply(params, state, x).tokens, params, jnp.zeros((8, 3, 8)))


def test_outside_a_key_stays():
    key = jax.random.key(0)
    assert own_key(key) is key and own_key(None) is None
    assert mesh_in_force() is None
    with jax.sharding.use_abstract_mesh(MeshSpec(data=8).abstract(8)):
        assert own_key(key) is key and mesh_in_force() is not None
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1).abstract(1)):
        assert mesh_in_force() is None


def test_widths_are_split_only_where_every_kernel_is():
    assert hidden_is_split({"up": {"kernel": P("expert", None, "model")}, "down": {"kernel": P("expert", "model")}})
    assert not hidden_is_split({"up": {"kernel": P("expert", None, "model")}, "down": {"kernel": P("expert")}})
    assert not hidden_is_split({"down": {"kernel": P("expert", "model")}})
    both = {"up": {"kernel": P("expert", None, "model")}, "down": {"kernel": P("expert", "model")}}
    assert hidden_is_split(both | {"up_bias": P("expert", "model"), "down_bias": P("expert")})
    assert not hidden_is_split(both | {"up_bias": P("expert")})
    assert not hidden_is_split(both | {"gamma": P("expert")})


def test_banks_that_split_their_widths():
    mesh = MeshSpec(data=1, expert=2, model=2).abstract(4)
    split = set()
    for name, bank in examples("experts"):
        params = jax.eval_shape(lambda bank=bank: bank.init(jax.random.key(0), 6, 8))
        specs, splits = bank_specs(params, mesh)
        if splits:
            split.add(name)
        else:
            assert all("model" not in spec for spec in jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P)))
    assert {"mlp", "swiglu", "low_rank"} <= split
