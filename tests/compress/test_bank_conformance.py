"""Laws of every bank method: the budget, the identity, products with `materialise`, and banks that are hard."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress import compress
from moejax.compress.contract import BankMethod
from moejax.compress.expert_bank import num_params
from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.core.spec import examples
from moejax.linear.dense import Dense
from moejax.linear.structure import abstract, describe
from tests.compress.small_banks import EXPERTS, D, E, F, bank, calibration, random, with_router
from tests.first_examples import quick_first

METHODS = {f"{name}-{i}": spec for i, (name, spec) in enumerate(examples("compress")) if isinstance(spec, BankMethod)}
every_method = pytest.mark.parametrize(
    "method", [pytest.param(METHODS[one.id], id=one.id, marks=one.marks) for one in quick_first(METHODS)]
)
every_bank = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind, marks=[] if kind == "mlp" else [pytest.mark.slow]) for kind in EXPERTS]
)


def compressed(method, params, budget, statistics=None):
    given = calibration(params) if statistics is None else statistics
    return method.compress_bank(with_router(params), given, num_params=budget)


def smallest(method, params):
    with pytest.raises(SpecError, match=r"num_params=0 is not reachable; the smallest is \d+") as error:
        compressed(method, params, 0)
    return int(re.search(r"the smallest is (\d+)", str(error.value))[1])


def budgets(method, params):
    """Fractions of all parameters, where the method reaches them, and the smallest that it reaches."""
    least, full = smallest(method, params), num_params(params)
    return [least] + [int(fraction * full) for fraction in (0.4, 0.8) if fraction * full > least]


def test_the_methods_are_found():
    assert {name.partition("-")[0] for name in METHODS} >= {"sub_moe", "mc_smoe", "mobe", "mole"}


@every_method
@every_bank
def test_the_budget_is_met(method, kind):
    params = bank(kind)
    for budget in budgets(method, params):
        made = compressed(method, params, budget)
        assert num_params(made) <= budget
        assert made.keys() == params.keys()  # the router is only read
    with pytest.raises(SpecError, match=f"smallest is {smallest(method, params)}"):
        compressed(method, params, smallest(method, params) - 1)


@every_method
@every_bank
def test_the_full_budget_is_the_identity(method, kind):
    params = bank(kind)
    made = compressed(method, params, num_params(params))
    assert made.keys() == params.keys()
    assert all(made[name] is params[name] for name in params)


@every_method
@every_bank
def test_apply_equals_the_product_with_materialise(method, kind):
    params, experts = bank(kind), EXPERTS[kind]
    made = compressed(method, params, max(int(0.7 * num_params(params)), smallest(method, params)))
    dense = {name: Dense(leaf.materialise()) if hasattr(leaf, "materialise") else leaf for name, leaf in made.items()}
    assert dense["up"].kernel.shape[:2] == (E, D)
    assert dense["down"].kernel.shape[0::2] == (E, D)
    x = jnp.asarray(random(5, 12, D), jnp.float32)
    apply = jax.jit(experts.apply)
    for layout in (Buffers(x.reshape(E, 3, D)), Ragged(x.at[10:].set(0), jnp.array([4, 0, 5, 1]))):
        found, wanted = apply(made, layout).tokens, apply(dense, layout).tokens
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max()))
        assert np.abs(wanted).max() > 0.1


@pytest.mark.slow
@every_method
def test_what_is_left_trains_and_is_described(method):
    params, experts = bank(), EXPERTS["mlp"]
    made = compressed(method, params, max(num_params(params) // 2, smallest(method, params)))
    x = Buffers(jnp.asarray(random(5, E, 3, D), jnp.float32))
    gradient = jax.grad(lambda p: jnp.sum(experts.apply(p, x).tokens ** 2))(made)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert all(any(np.any(leaf) for leaf in jax.tree.leaves(gradient[name])) for name in params)
    assert jax.tree.structure(abstract(describe(made))) == jax.tree.structure(made)


@every_method
def test_through_the_library_call(method):
    """In a tree, by the names there, with the router found beside the bank and the biases outside the budget."""
    params, statistics = bank("mlp"), calibration(bank("mlp"))
    layer = {"router": {"kernel": with_router(params)["router"]}, "experts": params}
    tree = {"blocks": {"05": {"moe": layer, "norm": {"scale": jnp.ones(D)}}}}
    named = {f"blocks/05/moe/experts/{name}": statistics[name] for name in ("up", "down")}
    named["blocks/05/moe/router"] = statistics["router"]
    made = compress(tree, method=method, budget=0.7, statistics=named)
    found = made.params["blocks"]["05"]["moe"]
    assert found["router"] is layer["router"]
    assert num_params(found["experts"]) <= num_params(params) - 0.3 * 2 * E * D * F
    assert made.report.after <= made.report.allowed < made.report.before
    with pytest.raises(SpecError, match="not reachable; the smallest"):
        compress(tree, method=method, budget=0.001, statistics=named)


def hard_banks():
    params = bank()
    zero = jax.tree.map(jnp.zeros_like, params)
    one = jax.tree.map(lambda array: array.at[1].set(0.0), params)
    same = jax.tree.map(lambda array: jnp.broadcast_to(array[:1], array.shape), params)
    thin = jnp.asarray(random(7, E, D, 1) @ random(8, E, 1, 8), jnp.float32)
    return {"zero": zero, "one zero": one, "same": same, "rank one": params | {"up": Dense(thin)}}


@every_method
@pytest.mark.parametrize("hard", hard_banks())
def test_hard_banks_give_finite_ones(method, hard):
    params = hard_banks()[hard]
    budget = max(int(0.6 * num_params(params)), smallest(method, params))
    idle = calibration(params, count=(0.0, 0.0, 0.0, 0.0))
    idle = idle | {
        name: leaf.replace(second_moment=jnp.zeros_like(leaf.second_moment))
        for name, leaf in idle.items()
        if leaf.second_moment is not None
    }
    for statistics in (calibration(params), idle):
        made = compressed(method, params, budget, statistics)
        assert num_params(made) <= budget
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(made))
        if hard == "zero":
            assert not any(np.any(np.asarray(made[name].materialise())) for name in ("up", "down"))
