"""The NNX module computes what the functional layer computes, and behaves as Flax users expect."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.flax.nnx import MoE, RouterLoss, RouterState, total_loss
from moejax.layers.moe import MoE as Layer

EXPERTS = {"name": "mlp", "expert_dim": 6}
TOP_K = {"name": "top_k", "num_experts": 3, "num_selected_experts": 2, "importance_loss_weight": 0.1}
BIASED = {"name": "top_k", "num_experts": 3, "bias_update_rate": 0.5, "noise_std": 0.0}
X = jax.random.normal(jax.random.key(1), (2, 4, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"router": TOP_K, "experts": EXPERTS, "group_size": 2, "shared": EXPERTS},
        {"router": {"name": "soft", "num_experts": 3}, "experts": {"name": "swiglu", "expert_dim": 6}},
    ],
    ids=["top_k", "soft"],
)
def test_equals_the_functional_layer(fields):
    rngs = nnx.Rngs(0)
    module = MoE(8, **fields, rngs=rngs)
    layer = build_spec(Layer, fields)
    params, state = layer.init(nnx.Rngs(0).params(), 8)
    expected = jax.jit(layer.apply)(params, state, X)
    module.eval()
    found = module(X)
    np.testing.assert_allclose(found, expected.tokens, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(total_loss(module), sum(expected.losses.values(), 0.0), rtol=1e-6)
    assert set(module.output(X).metrics) == set(expected.metrics)
    assert len(jax.tree.leaves(nnx.state(module, nnx.Param))) == len(jax.tree.leaves(params))


def test_training_is_random_and_evaluation_is_not():
    module = MoE(8, router=TOP_K | {"noise_std": 30.0}, experts=EXPERTS, rngs=nnx.Rngs(0))
    forward = nnx.jit(lambda module, x: module(x))
    first, second = forward(module, X), forward(module, X)
    assert not np.array_equal(first, second)
    same = [module(X, key=jax.random.key(3)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    module.eval()
    np.testing.assert_array_equal(forward(module, X), forward(module, X))


def test_router_state_moves_in_training_only():
    module = MoE(8, router=BIASED, experts=EXPERTS, rngs=nnx.Rngs(0))
    module(X, deterministic=True)
    np.testing.assert_array_equal(module.state["bias"].get_value(), np.zeros(3))
    load = module.output(X).metrics["load"]
    # Every training call moves the bias by 0.5 x sign(1/3 - load): up for experts below the mean load, down above.
    np.testing.assert_allclose(module.state["bias"].get_value(), 0.5 * np.sign(1 / 3 - np.asarray(load)), atol=1e-6)


def test_jit_grad_and_optax():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.moe = MoE(8, router=TOP_K | BIASED, experts=EXPERTS, rngs=rngs)

        def __call__(self, x):
            return x + self.moe(self.norm(x))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        def loss(model):
            return jnp.mean(model(x) ** 2) + total_loss(model)

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value, grads

    values = [step(model, optimizer, X)]
    assert np.abs(model.moe.state["bias"].get_value()).max() == 0.5  # one step of the bias
    values += [step(model, optimizer, X) for _ in range(5)]
    assert float(values[-1][0]) < float(values[0][0])
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(values[0][1]["moe"]))
    assert float(total_loss(model)) > 0


def test_scan_over_depth():
    axes = nnx.StateAxes({(nnx.Param, RouterState, RouterLoss, nnx.RngState): 0})

    @nnx.split_rngs(splits=2)
    @nnx.vmap(in_axes=(nnx.StateAxes({nnx.RngState: 0}),), out_axes=axes)
    def make(rngs):
        return MoE(8, router=TOP_K | BIASED, experts=EXPERTS, rngs=rngs)

    stacked = make(nnx.Rngs(0))

    @nnx.jit
    @nnx.scan(in_axes=(axes, nnx.Carry), out_axes=nnx.Carry)
    def forward(module, x):
        return x + module(x)

    y = forward(stacked, X)
    assert y.shape == X.shape
    assert stacked.loss.get_value().shape == (2,)
    assert stacked.state["bias"].get_value().shape == (2, 3)
    assert float(jnp.abs(stacked.state["bias"].get_value()).max()) > 0


def test_misspelt_names_say_what_was_meant():
    with pytest.raises(SpecError, match="expert_choice"):
        MoE(8, router={"name": "expert_choices", "num_experts": 3}, experts=EXPERTS, rngs=nnx.Rngs(0))
