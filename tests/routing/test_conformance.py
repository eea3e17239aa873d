"""Laws of every router, over the EXAMPLES of every file in moejax/routing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.contracts import Router
from moejax.core.errors import SpecError
from moejax.core.plans import ExpertChoice, Merge, SlotMix, TokenChoice
from moejax.core.spec import build_method, examples, methods
from moejax.dispatch.assignment import realised

G, S, D = 6, 8, 8
EXAMPLES = examples("routing")
every_router = pytest.mark.parametrize("name, router", EXAMPLES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(EXAMPLES)])


def tokens(seed=0, shape=(G, S, D)):
    return jax.random.normal(jax.random.key(seed), shape) + 0.3


@functools.cache
def initialised(router):
    """Parameters drawn from a normal (some routers start at zero), and the state."""
    params, state = router.init(jax.random.key(1), D)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), max(len(leaves), 1))
    drawn = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(structure, drawn), state


@functools.cache
def compiled(router):
    return jax.jit(lambda params, state, x, key, ids: router.route(params, state, x, key=key, token_ids=ids))


def route(router, x, key=None, ids=None):
    return compiled(router)(*initialised(router), x, key, ids)


def is_random(router):
    return getattr(router, "noise_std", 0.0) > 0 or type(router).__name__ in ("NoisyTopKRouter", "UniformRouter")


def served(plan, num_tokens=S):
    """[G S E] weights after capacity, by a plain loop: first choices first, then priority, then position."""
    if isinstance(plan, SlotMix):
        return np.asarray(plan.combine.sum(axis=3))
    if isinstance(plan, Merge):
        return np.broadcast_to(
            np.asarray(plan.weight)[:, None], (plan.weight.shape[0], num_tokens, plan.weight.shape[1])
        )
    if isinstance(plan, ExpertChoice):
        token, weight = np.asarray(plan.token), np.asarray(plan.weight)
        out = np.zeros((token.shape[0], num_tokens, token.shape[1]), np.float32)
        for g, e, c in np.ndindex(token.shape):
            out[g, token[g, e, c], e] = weight[g, e, c]
        return out
    expert, weight = np.asarray(plan.expert), np.asarray(plan.weight)
    groups, size, selected = expert.shape
    out = np.zeros((groups, size, plan.num_experts), np.float32)
    for g in range(groups):
        order = np.arange(size) if plan.priority is None else np.argsort(-np.asarray(plan.priority[g]), kind="stable")
        free = np.full(plan.num_experts, size * selected if plan.capacity is None else plan.capacity)
        for k in range(selected):
            for s in order:
                e = expert[g, s, k]
                if e >= 0 and free[e] > 0:
                    free[e] -= 1
                    out[g, s, e] = weight[g, s, k]
    return out


def influence(plan):
    """[G S ...] all that the plan says of each token."""
    if isinstance(plan, SlotMix):
        return np.concatenate([plan.dispatch, plan.combine], axis=-1)
    return served(plan)


def assert_same(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **(tolerance or {"rtol": 0, "atol": 0})), a, b)


@every_router
def test_spec_and_contract(name, router):
    assert isinstance(router, Router)
    assert hash(router) == hash(dataclasses.replace(router)) and router == dataclasses.replace(router)
    assert isinstance(router.causal, bool)
    for leaf in jax.tree.leaves(router.init(jax.random.key(0), D)[0]):
        assert leaf.dtype == jnp.float32


@every_router
@pytest.mark.parametrize("training", [False, True])
def test_plan(name, router, training):
    routed = route(router, tokens(), jax.random.key(3) if training else None)
    plan, E = routed.plan, router.num_experts
    assert isinstance(plan, router.plan_type)
    if isinstance(plan, TokenChoice):
        K = getattr(router, "num_selected_experts", 1)
        assert plan.expert.shape == plan.weight.shape == (G, S, K)
        assert plan.expert.dtype == jnp.int32 and plan.num_experts == E
        given_up = (plan.expert == -1) & bool(getattr(router, "eval_overflow", None))
        assert ((plan.expert >= 0) | given_up).all() and plan.expert.max() < E
        once = np.where(given_up, -1 - np.arange(K), plan.expert)
        assert (np.diff(np.sort(once, axis=-1), axis=-1) > 0).all(), "an expert is chosen twice"
        assert plan.priority is None or plan.priority.shape == (G, S)
        assert plan.capacity is None or 1 <= plan.capacity <= S
        weights = [plan.weight]
        if plan.capacity is not None:
            assert ((served(plan) > 0).sum(axis=1) <= plan.capacity).all()
    elif isinstance(plan, ExpertChoice):
        C = plan.token.shape[2]
        assert plan.token.shape == plan.weight.shape == (G, E, C) and 1 <= C <= S
        assert plan.token.min() >= 0 and plan.token.max() < S
        assert (np.diff(np.sort(plan.token, axis=-1), axis=-1) > 0).all(), "an expert takes a token twice"
        weights = [plan.weight]
    elif isinstance(plan, SlotMix):
        assert plan.dispatch.shape == plan.combine.shape and plan.dispatch.shape[:3] == (G, S, E)
        np.testing.assert_allclose(plan.dispatch.sum(axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(plan.combine.sum(axis=(2, 3)), 1.0, rtol=1e-5)
        weights = [plan.dispatch, plan.combine]
    else:
        assert plan.weight.shape == (G, E)
        np.testing.assert_allclose(plan.weight.sum(axis=1), 1.0, rtol=1e-5)
        weights = [plan.weight]
    for weight in weights:
        assert weight.dtype == jnp.float32 and (weight >= 0).all() and (weight <= 1.0 + 1e-5).all()
    assert routed.metrics["load"].shape == (E,)
    np.testing.assert_allclose(routed.metrics["load"].sum(), 1.0, rtol=1e-5)
    for value in (*routed.losses.values(), *routed.metrics.values()):
        assert value.dtype == jnp.float32
    for loss in routed.losses.values():
        assert loss.shape == () and loss >= 0


@every_router
def test_the_dispatchers_serve_the_plan_as_it_says(name, router):
    plan = route(router, tokens(), jax.random.key(3)).plan
    actual = jax.jit(realised, static_argnames="num_tokens")(plan, num_tokens=S)
    np.testing.assert_allclose(actual, served(plan), rtol=1e-5, atol=1e-7)


@every_router
def test_values_and_gradients_are_finite(name, router):
    params, state = initialised(router)

    @jax.jit
    def total(params, x):
        routed = router.route(params, state, x, key=jax.random.key(4))
        floats = [leaf for leaf in jax.tree.leaves(routed.plan) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        wave = [jnp.sum(leaf * jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)) for leaf in floats]
        return sum(wave) + sum(routed.losses.values()), routed

    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    for x in (tokens(), jnp.zeros((G, S, D)), 1e4 * tokens(), 1e6 * jnp.ones((G, S, D))):
        for leaf in jax.tree.leaves(gradient(params, x)):
            assert np.isfinite(leaf).all()
    for leaf in jax.tree.leaves(gradient(params, tokens())[1][0]):
        assert np.abs(leaf).max() > 0, "a parameter that nothing trains"


@every_router
def test_deterministic_without_a_key_and_random_with_one(name, router):
    x = tokens()
    assert_same(route(router, x), route(router, x))
    assert_same(route(router, x, jax.random.key(5)), route(router, x, jax.random.key(5)))
    one, two = (served(route(router, x, jax.random.key(i)).plan) for i in (6, 7))
    assert np.array_equal(one, two) != is_random(router)


@every_router
def test_state_moves_only_with_a_key(name, router):
    _, state = initialised(router)
    assert_same(route(router, tokens()).state, state)
    after = route(router, tokens(), jax.random.key(8)).state
    assert jax.tree.structure(after) == jax.tree.structure(state)
    moved = any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True))
    assert moved == (getattr(router, "bias_update_rate", 0.0) > 0)


@every_router
def test_groups_are_routed_independently(name, router):
    x = tokens()
    other = x.at[1:].set(tokens(9)[1:])
    before, after = influence(route(router, x).plan), influence(route(router, other).plan)
    np.testing.assert_allclose(before[0], after[0], rtol=1e-6)


@every_router
def test_tokens_may_come_in_any_order(name, router):
    """Decisions follow the tokens. Service by position (a capacity without priority) is the one declared exception."""
    order = jax.random.permutation(jax.random.key(10), S)
    ids = jax.random.randint(jax.random.key(11), (G, S), 0, 1000)
    x = tokens()
    if name == "hash":
        plan, permuted = route(router, x, ids=ids).plan, route(router, x[:, order], ids=ids[:, order]).plan
    else:
        plan, permuted = route(router, x).plan, route(router, x[:, order]).plan
    if name == "uniform":
        np.testing.assert_array_equal(plan.expert, permuted.expert)  # declared: follows positions, whatever the tokens
        return
    if isinstance(plan, TokenChoice):
        np.testing.assert_array_equal(plan.expert[:, order], permuted.expert)
        np.testing.assert_allclose(plan.weight[:, order], permuted.weight, rtol=1e-5)
        if plan.capacity is not None and plan.priority is None:
            return
    np.testing.assert_allclose(served(plan)[:, order], served(permuted), rtol=1e-4, atol=1e-6)


@every_router
def test_causal_is_honest(name, router):
    """Changing the tokens from position t on moves no earlier token's weights, if and only if the router says so."""
    disturbed = False
    for key in (None, jax.random.key(12)):
        for seed in range(3):
            x = tokens(seed)
            before = influence(route(router, x, key).plan)
            for t in (2, 6):
                changed = x.at[:, t:].set(3.0 * tokens(100 + seed)[:, t:])
                after = influence(route(router, changed, key).plan)
                disturbed |= not np.allclose(before[:, :t], after[:, :t], rtol=1e-6, atol=1e-7)
    assert disturbed != router.causal


@every_router
def test_bfloat16_tokens_are_routed_in_float32(name, router):
    rounded = tokens().astype(jnp.bfloat16)
    routed = route(router, rounded)
    assert_same(routed, route(router, rounded.astype(jnp.float32)), rtol=1e-6)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(routed))


@every_router
def test_one_expert_takes_everything(name, router):
    fields = {"num_experts": 1}
    if hasattr(router, "num_selected_experts"):
        fields["num_selected_experts"] = 1
    if getattr(router, "capacity_factor", None) is not None:
        fields["capacity_factor"] = 1.0
    if hasattr(router, "num_devices"):
        fields["num_devices"] = 1
    if hasattr(router, "num_nodes"):
        fields["num_nodes"] = 1
    if hasattr(router, "boundaries"):
        fields["boundaries"] = ()
    alone = dataclasses.replace(router, **fields)
    routed = route(alone, tokens())
    np.testing.assert_allclose(served(routed.plan), 1.0, rtol=1e-5)
    np.testing.assert_allclose(routed.metrics["load"], [1.0], rtol=1e-5)


def test_a_misspelt_router_is_named():
    with pytest.raises(SpecError, match="Did you mean 'expert_choice'"):
        build_method("routing", {"name": "expert_chioce", "num_experts": 4})


@pytest.mark.parametrize("name, cls", list(methods("routing").items()))
def test_a_misspelt_field_is_named(name, cls):
    with pytest.raises(SpecError, match="num_expert is not a field .*Did you mean 'num_experts'"):
        build_method("routing", {"name": name, "num_expert": 4})


@pytest.mark.parametrize("name", ["top_k", "noisy_top_k", "sinkhorn", "uniform"])
def test_more_choices_than_experts(name):
    with pytest.raises(SpecError, match="num_selected_experts=5 is more than num_experts=4"):
        build_method("routing", {"name": name, "num_experts": 4, "num_selected_experts": 5})


@pytest.mark.parametrize("name", list(methods("routing")))
def test_no_experts(name):
    nodes = {"num_nodes": 1} if name == "bi_level" else {}
    with pytest.raises(SpecError, match="num_experts=0 must be at least 1"):
        build_method("routing", {"name": name, "num_experts": 0} | nodes)


@pytest.mark.parametrize("name", ["top_k", "noisy_top_k", "sinkhorn", "uniform", "hash", "expert_choice"])
def test_capacity_that_is_zero(name):
    with pytest.raises(SpecError, match="capacity_factor=0.0 must be positive"):
        build_method("routing", {"name": name, "num_experts": 4, "capacity_factor": 0.0})
    config = {"name": name, "num_experts": 4, "capacity_factor": 0.1, "capacity_rounding": "round"}
    router = build_method("routing", config)
    params, state = router.init(jax.random.key(0), D)
    with pytest.raises(SpecError, match="rounds to zero"):
        jax.eval_shape(lambda x: router.route(params, state, x), tokens())
