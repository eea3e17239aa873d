"""The registry of strategies, its errors, and what the strategies keep in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import ExpertChoice, Merge, SlotMix, TokenChoice
from moejax.dispatch import strategies
from moejax.experts.mlp import MlpExperts


def identity(params, layout):
    return layout


def test_every_plan_has_its_strategies():
    assert strategies.strategies_for(TokenChoice) == ("einsum", "gather", "ragged", "reference")
    assert strategies.strategies_for(ExpertChoice) == ("einsum", "gather", "reference")
    assert strategies.strategies_for(SlotMix) == ("einsum", "reference")
    assert strategies.strategies_for(Merge) == ("merge", "reference")


def test_auto():
    expert, weight = jnp.zeros((1, 2, 1), jnp.int32), jnp.ones((1, 2, 1))
    assert strategies.resolve(TokenChoice(expert, weight, num_experts=1)) == "ragged"
    assert strategies.resolve(TokenChoice(expert, weight, num_experts=1, capacity=1)) == "gather"
    assert strategies.resolve(ExpertChoice(expert, weight)) == "gather"
    assert strategies.resolve(SlotMix(weight[..., None], weight[..., None])) == "einsum"
    assert strategies.resolve(Merge(weight[:, 0])) == "merge"


def test_errors_name_the_way_out():
    with pytest.raises(SpecError, match="dispatch='raged' is no strategy. Did you mean 'ragged'"):
        strategies.check_strategy("raged", TokenChoice)
    with pytest.raises(SpecError, match="cannot move tokens by a SlotMix plan; strategies that can: auto, einsum"):
        strategies.check_strategy("ragged", SlotMix)
    strategies.check_strategy("auto", Merge)


def test_reference_needs_to_read_the_plan():
    plan = TokenChoice(jnp.zeros((1, 2, 1), jnp.int32), jnp.ones((1, 2, 1)), num_experts=1)
    with pytest.raises(SpecError, match="outside jit"):
        jax.jit(lambda p: strategies.dispatch("reference", p, jnp.ones((1, 2, 3)), {}, identity))(plan)


@pytest.mark.parametrize("strategy", strategies.strategies_for(TokenChoice))
def test_by_hand(strategy):
    # Expert e multiplies by e + 1, each has one slot, and token 0 is served first. First choices: expert 0 takes
    # token 0. Second choices: expert 1 takes token 0 too, before token 1 can ask.
    # So y0 = (2 * 1 + 3 * 2) x0 = 8 x0, and the others get nothing.
    expert = jnp.array([[[0, 1], [0, 1], [0, 1]]])
    order = jnp.array([[2.0, 1.0, 0.0]])
    weight = jnp.array([[[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]])
    plan = TokenChoice(expert, weight, order, num_experts=2, capacity=1)
    x = jnp.array([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
    bank = MlpExperts(expert_dim=2, activation="relu")
    eye = jnp.eye(2)
    params = jax.tree.map(jnp.zeros_like, bank.init(jax.random.key(0), 2, 2))
    params["up"] = params["up"].replace(kernel=jnp.stack([eye, eye]))
    params["down"] = params["down"].replace(kernel=jnp.stack([eye, 2 * eye]))
    y = strategies.dispatch(strategy, plan, x, params, bank.apply)
    np.testing.assert_allclose(y, [[[8.0, 80.0], [0.0, 0.0], [0.0, 0.0]]])


def sizes_in(jaxpr) -> set[int]:
    found = set()
    for equation in jaxpr.eqns:
        found |= {int(np.prod(v.aval.shape)) for v in equation.outvars if hasattr(v.aval, "shape")}
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= sizes_in(inner)
    return found


@pytest.mark.parametrize("kind", ["token", "expert"])
def test_gather_holds_no_tensor_over_tokens_experts_and_slots(kind):
    groups, tokens, experts, capacity, dim = 2, 13, 11, 7, 3
    if kind == "token":
        plan = TokenChoice(
            jnp.zeros((groups, tokens, 1), jnp.int32),
            jnp.ones((groups, tokens, 1)),
            num_experts=experts,
            capacity=capacity,
        )
    else:
        plan = ExpertChoice(jnp.zeros((groups, experts, capacity), jnp.int32), jnp.ones((groups, experts, capacity)))

    def loss(strategy, x, weight):
        return jnp.sum(strategies.dispatch(strategy, plan.replace(weight=weight), x, {}, identity))

    def largest(strategy):
        gradient = jax.grad(lambda x, w: loss(strategy, x, w), argnums=(0, 1))
        return sizes_in(jax.make_jaxpr(gradient)(jnp.ones((groups, tokens, dim)), plan.weight).jaxpr)

    full = tokens * experts * capacity
    assert any(size and size % full == 0 for size in largest("einsum"))
    assert not any(size and size % full == 0 for size in largest("gather"))
