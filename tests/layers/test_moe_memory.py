"""What a compiled mixture layer keeps in memory: little more than the dense MLP, and nothing of size G S E C or E M D."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from moejax.core.spec import build_method
from moejax.experts.mlp import MlpExperts
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE

TOKENS, DIM, EXPERT_DIM, EXPERTS, CHOICES = 1600, 256, 1024, 8, 2  # compiled only, never run
TOP_K = {"name": "top_k", "num_experts": EXPERTS, "num_selected_experts": CHOICES}
LAYERS = {
    "ragged": TOP_K,
    "gather": TOP_K | {"capacity_factor": 1.05},
    "expert choice": {"name": "expert_choice", "num_experts": EXPERTS, "capacity_factor": float(CHOICES)},
}
CAPACITY = {"ragged": TOKENS, "gather": 420, "expert choice": 400}  # slots per expert, had there been buffers


@functools.cache
def compiled(name, backward):
    x = jnp.ones((1, TOKENS, DIM))
    if name == "dense":
        layer = FeedForward(experts=MlpExperts(expert_dim=EXPERT_DIM * CHOICES))
        params, apply = layer.init(jax.random.key(0), DIM), layer.apply
    else:
        dispatch = "ragged" if name == "ragged" else "gather"
        router = build_method("routing", LAYERS[name])
        layer = MoE(router=router, experts=MlpExperts(expert_dim=EXPERT_DIM), dispatch=dispatch)
        params, state = layer.init(jax.random.key(0), DIM)

        def apply(params, x):
            return layer.apply(params, state, x).tokens

    def loss(params, x):
        return jnp.sum(jnp.square(apply(params, x)))

    program = jax.jit(jax.grad(loss, (0, 1)) if backward else apply)
    return program.lower(params, x).compile()


def shapes_in(program):
    """Elements of every array that the compiled program names."""
    return {
        (dims, math.prod(map(int, dims.split(","))))
        for dims in re.findall(r"(?:f32|bf16|s32|pred)\[([\d,]+)\]", program.as_text())
    }


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_no_buffer_of_all_tokens_by_all_experts(name, backward):
    # The experts' weights with their gradients, and the hidden activations of all choices, may be that large.
    rows = TOKENS * CHOICES if name == "ragged" else EXPERTS * CAPACITY[name]
    largest = max(EXPERTS * DIM * EXPERT_DIM, rows * EXPERT_DIM)
    forbidden = {TOKENS * EXPERTS * CAPACITY[name], EXPERTS * TOKENS * CHOICES * DIM}
    for dims, elements in shapes_in(compiled(name, backward)):
        assert elements not in forbidden, f"[{dims}] is all tokens by all experts"
        assert elements <= largest, f"[{dims}] is larger than weights and hidden activations"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_temporary_memory_is_near_the_dense_layers(name, backward):
    dense = compiled("dense", backward).memory_analysis().temp_size_in_bytes
    layer = compiled(name, backward).memory_analysis().temp_size_in_bytes
    dispatched = 4 * TOKENS * CHOICES * DIM
    assert layer <= 1.5 * dense + dispatched, (layer / dense, dispatched / dense)


def test_the_check_sees_a_dense_masked_product():
    # jax.lax.ragged_dot on CPU multiplies every row by every kernel: exactly the buffer that must not be there.
    x, w = jnp.ones((TOKENS * CHOICES, DIM)), jnp.ones((EXPERTS, DIM, EXPERT_DIM))
    sizes = jnp.full((EXPERTS,), TOKENS * CHOICES // EXPERTS)
    program = jax.jit(jax.lax.ragged_dot).lower(x, w, sizes).compile()
    assert EXPERTS * TOKENS * CHOICES * DIM in {elements for _, elements in shapes_in(program)}
