"""The block's residual structure, drop path, and which routers a causal block takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.experts.mlp import MlpExperts
from moejax.layers.attention import Attention
from moejax.layers.block import Block
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.layers.norms import LayerNorm
from moejax.routing.expert_choice import ExpertChoiceRouter
from moejax.routing.soft import SoftRouter
from moejax.routing.top_k import TopKRouter

EXPERTS = MlpExperts(expert_dim=6)


def test_block_is_two_pre_normed_residual_branches() -> None:
    block = Block(attention=Attention(num_heads=2), mixer=FeedForward(experts=EXPERTS))
    params, state = block.init(jax.random.key(0), 8)
    assert state == {} and sorted(params) == ["attention", "feed_forward", "norm_1", "norm_2"]
    x = jax.random.normal(jax.random.key(1), (2, 3, 8))
    norm = LayerNorm()
    middle = x + block.attention.apply(params["attention"], norm.apply(params["norm_1"], x))
    expected = middle + block.mixer.apply(params["feed_forward"], norm.apply(params["norm_2"], middle))
    np.testing.assert_allclose(block.apply(params, state, x).tokens, expected, rtol=1e-5)


def test_drop_path_at_almost_one_leaves_the_input() -> None:
    block = Block(attention=Attention(num_heads=2), mixer=FeedForward(experts=EXPERTS))
    params, state = block.init(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (2, 3, 8))
    rate = jnp.asarray(0.999999, jnp.float32)
    out = block.apply(params, state, x, key=jax.random.key(2), drop_path_rate=rate)
    np.testing.assert_array_equal(out.tokens, x)


def test_moe_block_returns_what_its_router_returned() -> None:
    router = TopKRouter(num_experts=3, balance_loss_weight=0.1)
    block = Block(attention=Attention(num_heads=2), mixer=MoE(router=router, experts=EXPERTS))
    params, state = block.init(jax.random.key(0), 8)
    out = block.apply(params, state, jax.random.normal(jax.random.key(1), (2, 3, 8)))
    assert "moe" in params and out.plan.num_experts == 3
    assert list(out.losses) == ["balance"] and out.metrics["load"].shape == (3,)


CAUSAL = Attention(num_heads=2, causal=True)


@pytest.mark.parametrize(
    ("router", "name"),
    [
        (ExpertChoiceRouter(num_experts=3), "'expert_choice' (ExpertChoiceRouter)"),
        (SoftRouter(num_experts=3), "'soft' (SoftRouter)"),
    ],
)
def test_a_causal_block_refuses_routers_that_see_later_tokens(router, name: str) -> None:
    with pytest.raises(SpecError) as error:
        Block(attention=CAUSAL, mixer=MoE(router=router, experts=EXPERTS))
    assert name in str(error.value) and "'top_k'" in str(error.value)
    Block(attention=Attention(num_heads=2), mixer=MoE(router=router, experts=EXPERTS))


def test_a_causal_block_with_dropless_top_k_leaks_nothing() -> None:
    router = TopKRouter(num_experts=3, num_selected_experts=2)
    block = Block(attention=CAUSAL, mixer=MoE(router=router, experts=EXPERTS))
    params, state = block.init(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (1, 4, 8))
    y = block.apply(params, state, x).tokens
    later = block.apply(params, state, x.at[:, 3].set(5.0)).tokens
    np.testing.assert_allclose(y[:, :3], later[:, :3], rtol=1e-6, atol=1e-6)
    assert not np.allclose(y[:, 3], later[:, 3])
