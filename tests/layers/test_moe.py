"""The layer end to end: every router, strategies against each other, shared experts, groups and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import ExpertChoice, TokenChoice
from moejax.core.spec import build_method, build_spec, examples
from moejax.dispatch.strategies import strategies_for
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE

B, T, D = 2, 6, 5
ROUTERS = {f"{name}-{i}": spec for i, (name, spec) in enumerate(examples("routing"))}
BANK = MlpExperts(expert_dim=4)


def inputs(shape=(B, T, D)):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def gradients(spec: MoE, params, state, x, key):
    def loss(params, x):
        out = spec.apply(params, state, x, key=key)
        return jnp.sum(jnp.sin(out.tokens)) + sum(out.losses.values(), jnp.float32(0)), out.tokens

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)


def every_router():
    """All examples; in the quick run one for each type of plan."""
    first = {router.plan_type: name for name, router in reversed(ROUTERS.items())}.values()
    return [pytest.param(name, marks=[] if name in first else [pytest.mark.slow]) for name in ROUTERS]


@pytest.mark.parametrize("name", every_router())
def test_strategies_agree_through_the_router(name):
    """Output and the gradients of router, experts and tokens do not depend on how tokens move."""
    router = ROUTERS[name]
    by_index = router.plan_type in (TokenChoice, ExpertChoice)  # then `reference` cannot run compiled
    names = [s for s in strategies_for(router.plan_type) if not (by_index and s == "reference")]
    params, state = jax.jit(MoE(router=router, experts=BANK).init, static_argnums=1)(jax.random.key(0), D)
    results = [
        jax.jit(
            functools.partial(gradients, MoE(router=router, experts=BANK, dispatch=dispatch)),
            compiler_options={"xla_backend_optimization_level": 0},  # small programs, run once each
        )(params, state, inputs(), jax.random.key(1))
        for dispatch in names
    ]
    for result in results[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), result, results[0])


@pytest.mark.slow
def test_reference_runs_inside_the_layer():
    router = build_method("routing", {"name": "top_k", "num_experts": 3, "num_selected_experts": 2})
    params, state = MoE(router=router, experts=BANK).init(jax.random.key(0), D)
    slow, fast = (
        gradients(MoE(router=router, experts=BANK, dispatch=d), params, state, inputs(), None)
        for d in ("reference", "gather")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), slow, fast)


def test_metrics_and_shapes():
    spec = build_spec(
        MoE,
        {
            "router": {"name": "top_k", "num_experts": 3, "num_selected_experts": 1},
            "experts": {"name": "swiglu", "expert_dim": 4},
        },
    )
    params, state = jax.eval_shape(lambda: spec.init(jax.random.key(0), D))
    out = jax.eval_shape(spec.apply, params, state, inputs())
    assert out.tokens.shape == (B, T, D)
    assert {"load", "dropped", "unserved", "padding", "capacity", "dead_experts", "served_load"} <= set(out.metrics)
    assert isinstance(out.plan, TokenChoice)
    assert set(params) == {"router", "experts"}


def test_one_expert_of_weight_one_is_the_dense_layer():
    router = build_method("routing", {"name": "uniform", "num_experts": 1})
    spec = MoE(router=router, experts=BANK, dispatch="ragged")
    params, state = jax.jit(spec.init, static_argnums=1)(jax.random.key(0), D)
    dense = FeedForward(experts=BANK)
    dense_params = jax.tree.map(lambda leaf: leaf[0], params["experts"])
    x = inputs()
    np.testing.assert_allclose(
        jax.jit(spec.apply)(params, state, x).tokens, jax.jit(dense.apply)(dense_params, x), rtol=1e-5, atol=1e-6
    )


def test_the_gate_of_a_shared_expert_by_hand():
    router, x = build_method("routing", {"name": "top_k", "num_experts": 3, "noise_std": 0.0}), inputs()
    gated = MoE(router=router, experts=BANK, shared=SwigluExperts(expert_dim=3), shared_gate=True)
    params, state = gated.init(jax.random.key(0), D)
    assert params["shared_gate"]["kernel"].shape == (D, 1)
    routed = MoE(router=router, experts=BANK).apply(params, state, x).tokens
    beside = FeedForward(experts=gated.shared).apply(params["shared"], x)
    gate = 1 / (1 + np.exp(-np.asarray(x) @ np.asarray(params["shared_gate"]["kernel"])))
    np.testing.assert_allclose(gated.apply(params, state, x).tokens, routed + beside * gate, rtol=1e-5, atol=1e-6)
    with pytest.raises(SpecError, match="shared_gate=True needs a shared expert"):
        MoE(router=router, experts=BANK, shared_gate=True)


def test_shared_experts_are_added():
    router = build_method("routing", {"name": "uniform", "num_experts": 2})
    plain = MoE(router=router, experts=BANK)
    shared = SwigluExperts(expert_dim=3)
    both = MoE(router=router, experts=BANK, shared=shared)
    params, state = jax.jit(both.init, static_argnums=1)(jax.random.key(0), D)
    alone, _ = jax.jit(plain.init, static_argnums=1)(jax.random.key(0), D)
    jax.tree.map(np.testing.assert_array_equal, {k: params[k] for k in ("router", "experts")}, alone)
    x = inputs()
    added = jax.jit(both.apply)(params, state, x).tokens - jax.jit(plain.apply)(alone, state, x).tokens
    beside = jax.jit(FeedForward(experts=shared).apply)(params["shared"], x)
    np.testing.assert_allclose(added, beside, rtol=1e-4, atol=1e-5)


def test_group_size():
    router = build_method("routing", {"name": "uniform", "num_experts": 2})

    def expert(size):
        spec = MoE(router=router, experts=BANK, group_size=size)
        return jax.eval_shape(lambda: spec.apply(*spec.init(jax.random.key(0), D), inputs()).plan.expert)

    assert [expert(size).shape[:2] for size in (None, 3, 12)] == [(2, 6), (4, 3), (1, 12)]
    with pytest.raises(SpecError, match="group_size=5 does not divide the 12 tokens"):
        expert(5)
    with pytest.raises(SpecError, match="group_size=0 must be at least 1"):
        MoE(router=router, experts=BANK, group_size=0)


def test_strategy_is_checked_when_the_spec_is_made():
    router = build_method("routing", {"name": "soft", "num_experts": 2})
    with pytest.raises(SpecError, match="dispatch='ragged' cannot move tokens by a SlotMix plan"):
        MoE(router=router, experts=BANK, dispatch="ragged")
