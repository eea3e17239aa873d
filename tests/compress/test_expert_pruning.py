"""Experts reordered change nothing, experts that leave take their rows with them; what cannot be pruned is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.expert_pruning import pruned, router_kernels
from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.core.tree import flatten
from moejax.models.vit import VisionTransformer

FIELDS = {
    "image_size": 8, "patch_size": 2, "dim": 8, "depth": 3, "num_heads": 1, "mlp_dim": 8, "num_classes": 3, "pooling": "avg",
    "moe_layers": "final2",
}  # fmt: skip


def vit(**router):
    moe = {
        "router": {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": None} | router,
        "experts": {"name": "mlp", "expert_dim": 4},
    }
    return build_spec(VisionTransformer, FIELDS | {"moe": moe})


@pytest.fixture(scope="module")
def made():
    model = vit()
    params, state = model.init(jax.random.key(0))
    return model, params, state


def test_kernels_are_found_in_stacked_layers(made):
    _, params, _ = made
    found = router_kernels(params)
    assert {layer: kernel.shape for layer, kernel in found.items()} == {"01": (8, 4), "02": (8, 4)}
    (stacked,) = [leaf for name, leaf in flatten(params).items() if name.endswith("router/kernel")]
    np.testing.assert_array_equal(found["02"], stacked[1])


def test_another_order_of_experts_is_the_same_model(made):
    model, params, state = made
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32))
    other, moved = pruned(model, params, state, {"01": [2, 0, 3, 1], "02": [3, 2, 1, 0]})
    expected = model.apply(params, state, images).logits
    found = other.apply(moved, {"blocks": {"00": {}, "01": {}, "02": {}}}, images).logits
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_stays_is_what_was(made):
    model, params, state = made
    smaller, found = pruned(model, params, state, {"01": [1, 3], "02": np.array([0, 2])})
    assert smaller.moe.router.num_experts == 2
    before = {name: leaf for name, leaf in flatten(params).items() if "/moe/" in name}
    own = flatten(found["blocks"]["02"]["moe"])
    for name, leaf in own.items():
        (stacked,) = [leaf for full, leaf in before.items() if full.endswith(name)]
        axis = -1 if name.startswith("router") else 0
        np.testing.assert_array_equal(leaf, np.take(stacked[1], [0, 2], axis=axis))
    np.testing.assert_array_equal(router_kernels(found)["01"], router_kernels(params)["01"][:, [1, 3]])


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"01": [0, 1]}, r"names the layers \['01'\]; the MoE layers are \['01', '02'\]"),
        ({"01": [0, 1], "02": [0, 1, 2]}, "as many as in every other layer"),
        ({"01": [0, 0], "02": [0, 1]}, r"kept\['01'\]=\[0, 0\] must be different experts from 0 to 3"),
        ({"01": [0, 1], "02": [0, 4]}, r"kept\['02'\]=\[0, 4\]"),
        ({"01": [0], "02": [0]}, "num_selected_experts=2"),
    ],
)
def test_wrong_choices_are_refused(made, kept, message):
    with pytest.raises(SpecError, match=message):
        pruned(*made, kept)


def test_dense_models_and_balancing_biases_are_refused():
    dense = build_spec(VisionTransformer, {k: v for k, v in FIELDS.items() if k != "moe_layers"})
    with pytest.raises(SpecError, match="no layer has a linear router"):
        router_kernels(dense.init(jax.random.key(0))[0])
    model = vit(bias_update_rate=0.1)
    with pytest.raises(SpecError, match="state belongs to all experts"):
        pruned(model, *model.init(jax.random.key(0)), {"01": [0, 1], "02": [0, 1]})
