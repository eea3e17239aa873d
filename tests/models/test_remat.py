"""What blocks keep for the backward pass: the same gradients, less memory, nothing sent twice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.core.tree import flatten
from moejax.models.remat import computed_again
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent

NAMES = ("none", "full", "dots", "exchange")


def model(**fields):
    """Four blocks that take turns, dense and MoE."""
    router = {"name": "top_k", "num_experts": 8, "num_selected_experts": 2, "capacity_factor": 1.0}
    moe = {"router": router, "experts": {"name": "mlp", "expert_dim": 16}}
    sizes = {"image_size": 8, "patch_size": 2, "dim": 16, "depth": 4, "num_heads": 2, "mlp_dim": 64, "num_classes": 3}
    return build_method("models", {"name": "vit", "moe": moe, "moe_layers": "every2"} | sizes | fields)


@functools.cache
def ready():
    params, state = jax.jit(model().init)(jax.random.key(0))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) * 0.3, leaf.dtype), params), state


def loss(spec, params, x):
    out = spec.apply(params, ready()[1], x, key=jax.random.key(1))
    return jnp.sum(jnp.square(out.logits)) + sum(out.losses.values(), jnp.zeros(()))


@functools.cache
def compiled(**fields):
    gradient = jax.grad(functools.partial(loss, model(**fields)))
    return jax.jit(gradient).lower(ready()[0], jnp.ones((16, 8, 8, 3))).compile()


@functools.cache
def gradients(**fields):
    x = jax.random.normal(jax.random.key(2), (16, 8, 8, 3))
    return flatten(jax.device_get(compiled(**fields)(ready()[0], x)))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"remat": name} for name in NAMES[1:]] + [{"scan": False}], ids=str)
def test_gradients_are_the_same(fields):
    for name, leaf in gradients(**fields).items():
        np.testing.assert_allclose(leaf, gradients(remat="none")[name], rtol=2e-4, atol=2e-5, err_msg=name)
    assert np.abs(gradients(remat="none")["blocks/01-03by2/moe/router/kernel"]).max() > 0


@pytest.mark.slow
def test_memory_of_the_compiled_step_falls():
    none, full, dots, exchange = (compiled(remat=name).memory_analysis().temp_size_in_bytes for name in NAMES)
    assert full < 0.6 * none
    assert full <= exchange < none
    assert full < dots < none


@pytest.mark.slow
def test_what_is_sent_twice():
    params, _ = ready()
    x = jnp.zeros((16, 8, 8, 3))
    swap = 2 * 8 * 5 * 16 * 4  # two pictures of 17 tokens: 8 experts of 5 slots of 16 numbers
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=8).abstract(8)):
        found = [
            sent(jax.grad(functools.partial(loss, model(remat=name))), params, x)["all_to_all", "expert"]
            for name in NAMES
        ]
    # There and back, and the gradients there and back; recomputed, the tokens travel again.
    assert found == [4 * swap, 6 * swap, 6 * swap, 4 * swap]


def test_names():
    assert [computed_again(name) for name in NAMES] == [False, True, False, True]
    with pytest.raises(SpecError, match="remat"):
        model(remat="everything")
