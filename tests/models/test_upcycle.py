"""Dense models become models with experts that compute the same, and neurons go where their scores say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.evals.summary import summarise
from moejax.models.upcycle import copy_experts, indifferent_gate, neuron_scores, split_experts

FIELDS = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 24, "num_classes": 3}
BANKS = ("mlp", pytest.param("swiglu", marks=pytest.mark.slow))


def dense(bank):
    return build_method("models", {"name": "dit", **FIELDS, "feed_forward": {"name": bank, "expert_dim": 24}})


def mixture(bank, *, width=24, shared=None, experts=4, k=2, **router):
    moe = {
        "router": {"name": "top_k", "num_experts": experts, "num_selected_experts": k, "noise_std": 0.0, **router},
        "experts": {"name": bank, "expert_dim": width},
    }
    if shared is not None:
        moe["shared"] = {"name": bank, "expert_dim": shared}
    fields = {"name": "dit", **FIELDS, "moe": moe, "feed_forward": {"name": bank, "expert_dim": 24}}
    return build_method("models", fields)


def lively(model, seed=0):
    """Parameters of which none is zero: a new DiT ignores its blocks."""
    params, state = model.init(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, drawn), state


def batch():
    x = jax.random.normal(jax.random.key(9), (4, 8, 8, 3))
    return x, jnp.array([1.0, 300.0, 700.0, 999.0]), jnp.array([0, 1, 2, 1])


def predict(model, params, state):
    return np.asarray(jax.jit(lambda p: model.apply(p, state, *batch()).prediction)(params))


def same(found, wanted):
    assert np.abs(wanted).max() > 0.3
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bank", BANKS)
def test_copies_with_gates_that_sum_to_one_are_the_dense_model(bank):
    model = dense(bank)
    params, state = lively(model)
    wanted = predict(model, params, state)
    for fields in ({"renormalize": True}, {"k": 4}, {"order": "top_k_then_softmax", "shared": 8}):
        target = mixture(bank, **fields)
        same(predict(target, *copy_experts(params, target, jax.random.key(3))), wanted)


def test_copies_are_copies_and_routers_are_drawn():
    model, target = dense("mlp"), mixture("mlp", shared=8)
    params, _ = lively(model)
    found, _ = copy_experts(params, target, jax.random.key(3))
    ours, theirs = found["blocks"]["00-01"], params["blocks"]["00-01"]
    for e in range(4):
        np.testing.assert_array_equal(ours["moe"]["experts"]["up"].kernel[:, e], theirs["feed_forward"]["up"].kernel)
    jax.tree.map(np.testing.assert_array_equal, ours["attention"], theirs["attention"])
    router = np.asarray(ours["moe"]["router"]["kernel"])
    assert 0.01 < router.std() < 0.03 and len(np.unique(router)) == router.size  # no two layers alike
    assert not np.any(ours["moe"]["shared"]["down"].kernel) and np.any(ours["moe"]["shared"]["up"].kernel)


def test_keep_scale_makes_up_for_gates_that_do_not_sum_to_one():
    model, target = dense("mlp"), mixture("mlp", k=2)
    params, state = lively(model)
    wanted = predict(model, params, state)
    upcycled = copy_experts(params, target, jax.random.key(3), router_std=0.0, keep_scale=True)
    same(predict(target, *upcycled), wanted)
    plain = copy_experts(params, target, jax.random.key(3), router_std=0.0)
    assert np.abs(predict(target, *plain) - wanted).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("router", [{}, {"renormalize": True}, {"scores": "sigmoid"}])
@pytest.mark.parametrize("bank", BANKS)
def test_all_parts_together_are_the_dense_model(bank, router):
    model = dense(bank)
    params, state = lively(model)
    scores = {f"{i:02d}": jax.random.uniform(jax.random.key(i), (24,)) for i in range(2)}
    target = mixture(bank, width=4, shared=8, k=4, **router)
    same(
        predict(target, *split_experts(params, target, scores, jax.random.key(3), router_std=0.0)),
        predict(model, params, state),
    )


def test_the_most_important_neurons_are_shared_and_the_others_dealt_in_turns():
    params, _ = lively(dense("mlp"))
    score = np.zeros(24)
    score[[20, 3, 7, 11, 0, 1, 2, 23]] = 9.0  # shared
    rest = [i for i in range(24) if score[i] == 0]
    score[rest] = np.arange(16, 0, -1) / 100  # 4, 5, 6, 8 ... by falling importance
    target = mixture("mlp", width=4, shared=8)
    found, _ = split_experts(
        params, target, {f"{i:02d}": jnp.asarray(score, jnp.float32) for i in range(2)}, jax.random.key(0)
    )
    moe, mlp = found["blocks"]["00-01"]["moe"], params["blocks"]["00-01"]["feed_forward"]
    kernel = mlp["up"].kernel
    np.testing.assert_array_equal(moe["shared"]["up"].kernel, kernel[..., [0, 1, 2, 3, 7, 11, 20, 23]])
    np.testing.assert_array_equal(moe["shared"]["down_bias"], mlp["down_bias"])
    for e in range(4):
        np.testing.assert_array_equal(moe["experts"]["up"].kernel[:, e], kernel[..., rest[e::4]])
        np.testing.assert_array_equal(moe["experts"]["up_bias"][:, e], mlp["up_bias"][..., rest[e::4]])
        np.testing.assert_allclose(
            moe["experts"]["down"].kernel[:, e], 4 * mlp["down"].kernel[:, rest[e::4]], rtol=1e-6
        )
    assert not np.any(moe["experts"]["down_bias"])


def test_scores_are_the_first_order_change_of_the_loss():
    model = dense("mlp")
    params, state = lively(model)
    apply = jax.jit(lambda p: model.apply(p, state, *batch()).prediction)
    gradients = jax.grad(lambda p: jnp.sum(jnp.square(apply(p))))(params)
    scores = neuron_scores(params, gradients)
    assert sorted(scores) == ["00", "01"] and scores["01"].shape == (24,)
    blocks = params["blocks"]["00-01"]
    down = blocks["feed_forward"]["down"]

    def loss_without(share, layer, neuron):
        weaker = down.replace(kernel=down.kernel.at[layer, neuron].multiply(1 - share))
        changed = blocks | {"feed_forward": blocks["feed_forward"] | {"down": weaker}}
        return np.square(np.asarray(apply(params | {"blocks": {"00-01": changed}}), np.float64)).sum()

    for layer, neuron in ((0, 5), (1, 17)):
        slope = (loss_without(0.05, layer, neuron) - loss_without(-0.05, layer, neuron)) / 0.1
        np.testing.assert_allclose(scores[f"{layer:02d}"][neuron], abs(slope), rtol=0.02)


def test_flops_of_the_split_are_the_stated_activation():
    """A token meets the shared expert's 8 neurons and 2 experts of 4: 16 of 24, and a router."""
    whole, part = (summarise(model, batch_size=2) for model in (dense("mlp"), mixture("mlp", width=4, shared=8, k=2)))
    neuron, router = 4 * 2 * 2 * 8, 4 * 2 * 8 * 4  # tokens, kernels, multiply-add, D; tokens, multiply-add, D, E
    assert whole.total("flops_per_example") - part.total("flops_per_example") == 2 * ((24 - 16) * neuron - router)
    # parameters: 8 neurons of two kernels and a bias less, E kernels of the router, K output biases more
    assert whole.total("activated_params") - part.total("activated_params") == 2 * (8 * 17 - 32 - 2 * 8)


def test_indifferent_gates():
    gates = [
        indifferent_gate(mixture("mlp", **f).moe.router) for f in ({}, {"renormalize": True}, {"scores": "sigmoid"})
    ]
    assert gates == [1 / 4, 1 / 2, 1 / 2]


def test_what_does_not_fit():
    params, _ = lively(dense("mlp"))
    scores = {f"{i:02d}": jnp.ones(24) for i in range(2)}
    with pytest.raises(
        SpecError, match=r"a shared expert of 8 and 4 experts of 5 neurons hold 28, and the dense MLP has 24"
    ):
        split_experts(params, mixture("mlp", width=5, shared=8), scores, jax.random.key(0))
    with pytest.raises(SpecError, match="set moe.shared"):
        split_experts(params, mixture("mlp", width=4), scores, jax.random.key(0))
    with pytest.raises(SpecError, match="layer 01 needs scores of 24 neurons"):
        split_experts(params, mixture("mlp", width=4, shared=8), {"00": jnp.ones(24)}, jax.random.key(0))
    with pytest.raises(SpecError, match=r"(?s)do not make this model:\n.*moe/experts/up/kernel expected"):
        copy_experts(params, mixture("mlp", width=16), jax.random.key(0))
    with pytest.raises(SpecError, match="has 2 layers, the one with experts 3"):
        copy_experts(params, dataclasses.replace(mixture("mlp"), depth=3), jax.random.key(0))
