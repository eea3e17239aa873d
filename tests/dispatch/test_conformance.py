"""Every plan by every strategy that fits it, with every expert bank: value and all gradients equal the slow loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.contracts import enter, leave
from moejax.core.plans import ExpertChoice, Merge, SlotMix, TokenChoice
from moejax.core.spec import examples
from moejax.dispatch import strategies
from moejax.linear.contract import is_leaf
from moejax.linear.expert_axis import shared_fields

G, S, D = 2, 7, 5  # groups, tokens, width: nothing divides anything
E, K = 3, 2
ROUTERS = {f"{name}-{i}": spec for i, (name, spec) in enumerate(examples("routing"))}
BANKS = dict(reversed(examples("experts")))  # the first example of each
DENSE = ("mlp", "swiglu")
OTHERS_MEET = ("an empty expert", "a token chosen by all experts", "slots without tokens", "one expert alone")
WEIGHTS = ("weight", "dispatch", "combine")  # the fields of plans that carry a gradient


def tokens(seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(G, S, D)), jnp.float32)


def token_choice(expert, *, capacity, priority=False):
    draw = np.random.default_rng(1)
    expert = np.broadcast_to(expert, (G, S, K))
    weight = jnp.asarray(draw.uniform(0.2, 1, expert.shape), jnp.float32)
    order = jnp.asarray(draw.normal(size=(G, S)), jnp.float32) if priority else None
    return TokenChoice(jnp.asarray(expert, jnp.int32), weight, order, num_experts=E, capacity=capacity)


def distinct():
    draw = np.random.default_rng(2)
    return np.stack([draw.permutation(E)[:K] for _ in range(G * S)]).reshape(G, S, K)


def some_not_made():
    return np.where(np.random.default_rng(3).random((G, S, K)) < 0.4, -1, distinct())


def adversarial() -> dict[str, object]:
    draw = np.random.default_rng(4)

    def softmax(shape, axes):
        return jax.nn.softmax(jnp.asarray(draw.normal(size=shape), jnp.float32), axes)

    sparse = softmax((G, S, E, 2), (2, 3)).at[:, :, 1].set(0).at[:, 3].set(0)
    return {
        "all to one, dropless": token_choice([0, -1], capacity=None),
        "all to one, drops": token_choice([0, -1], capacity=2),
        "an empty expert": token_choice([2, 0], capacity=None),
        "an empty expert, drops, priority": token_choice([2, 0], capacity=3, priority=True),
        "drops by position": token_choice(distinct(), capacity=2),
        "drops by priority": token_choice(distinct(), capacity=3, priority=True),
        "choices not made, dropless": token_choice(some_not_made(), capacity=None),
        "choices not made, drops": token_choice(some_not_made(), capacity=2),
        "nothing chosen": token_choice([-1, -1], capacity=2),
        "more slots than tokens": token_choice(distinct(), capacity=S + 2),
        "a token chosen by all experts": ExpertChoice(jnp.full((G, E, 1), 4), softmax((G, E, 1), 1)),
        "slots without tokens": SlotMix(sparse, sparse),
        "one expert alone": Merge(jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0]), (G, E))),
    }


ADVERSARIAL = adversarial()
UNUSED = {
    "all to one, dropless": (1, 2),
    "all to one, drops": (1, 2),
    "an empty expert": (1,),
    "an empty expert, drops, priority": (1,),
    "nothing chosen": (0, 1, 2),
    "one expert alone": (0, 2),
}


@functools.cache
def plan_of(name: str):
    """A hand-made plan, or the one that a router makes in training (where capacities are tightest)."""
    if name in ADVERSARIAL:
        return ADVERSARIAL[name]
    router = ROUTERS[name]
    params, state = router.init(jax.random.key(0), D)
    return jax.jit(router.route)(params, state, tokens(), key=jax.random.key(1)).plan


@functools.cache
def bank_params(bank: str, num_experts: int):
    """Parameters of unit size, biases too, so that every gradient counts."""
    shapes = jax.eval_shape(lambda: BANKS[bank].init(jax.random.key(0), num_experts, D))
    draw = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) / 2, jnp.float32), shapes)


def value_and_gradients(strategy: str, bank: str, plan, x, params):
    """Output, and gradients in the tokens, the plan's weights and every leaf of the bank."""
    weights = {name: getattr(plan, name) for name in WEIGHTS if hasattr(plan, name)}

    def run(x, weights, params):
        narrow = enter(BANKS[bank], params, x)
        y = strategies.dispatch(strategy, plan.replace(**weights), narrow, params, BANKS[bank].apply)
        return leave(BANKS[bank], params, y)

    y, pullback = jax.vjp(run, x, weights, params)
    return y, *pullback(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def num_experts_of(plan) -> int:
    if isinstance(plan, TokenChoice):
        return plan.num_experts
    return plan.dispatch.shape[2] if isinstance(plan, SlotMix) else plan.weight.shape[1]


@functools.cache
def expected(name: str, bank: str):
    plan = plan_of(name)
    by_index = isinstance(plan, TokenChoice | ExpertChoice)  # then the loop must read the plan, and cannot be compiled
    run = functools.partial(value_and_gradients, "reference", bank) if by_index else compiled("reference", bank)
    return run(plan, tokens(), bank_params(bank, num_experts_of(plan)))


@functools.cache
def compiled(strategy: str, bank: str):
    # Small programs, run once each: most of the time would go into optimising them.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(functools.partial(value_and_gradients, strategy, bank), compiler_options=options)


def cases():
    """All plans with the first bank; with the other banks as slow tests.

    Dense banks meet every plan, of the others one example each a plan of every type.
    """
    types = {name: type(plan) for name, plan in ADVERSARIAL.items()}
    types |= {name: router.plan_type for name, router in ROUTERS.items()}
    return [
        pytest.param(
            name,
            strategy,
            bank,
            id=f"{name}-{strategy}-{bank}",
            marks=[] if bank == "mlp" else [pytest.mark.slow],
        )
        for name, plan_type in types.items()
        for strategy in strategies.strategies_for(plan_type)
        if strategy != "reference"
        for bank in BANKS
        if bank in DENSE or name in OTHERS_MEET
    ]


def own_arrays(params):
    """Arrays that carry the expert axis."""
    for node in jax.tree.leaves(params, is_leaf=is_leaf):
        shared = [id(a) for field in shared_fields(node) for a in jax.tree.leaves(getattr(node, field))]
        yield from (array for array in jax.tree.leaves(node) if id(array) not in shared)


@pytest.mark.parametrize(("name", "strategy", "bank"), cases())
def test_strategy_equals_reference(name, strategy, bank):
    plan = plan_of(name)
    params = bank_params(bank, num_experts_of(plan))
    found = compiled(strategy, bank)(plan, tokens(), params)
    limit = 1e-5 if bank in DENSE else 1e-4  # longer chains of products
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=limit, atol=limit), found, expected(name, bank))
    for expert in UNUSED.get(name, ()):
        for leaf in own_arrays(found[3]):
            assert not np.any(leaf[expert]), "an expert without tokens must get a gradient of exactly zero"


@pytest.mark.parametrize("strategy", [name for name in strategies.STRATEGIES if name != "reference"])
def test_bfloat16_stays(strategy):
    plan = next(plan for plan in ADVERSARIAL.values() if strategy in strategies.strategies_for(type(plan)))
    bank = "mlp"
    shapes = jax.eval_shape(compiled(strategy, bank), plan, tokens().astype(jnp.bfloat16), bank_params(bank, E))
    assert (shapes[0].dtype, shapes[1].dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes[2:])} == {jnp.dtype(jnp.float32)}
