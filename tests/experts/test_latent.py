"""Latent experts on paper; at full width the experts themselves; what travels is narrow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.layouts import Buffers, Ragged
from moejax.core.spec import build_spec
from moejax.experts.latent import LatentExperts
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.linear.dense import Dense
from moejax.linear.shared import Shared


def test_by_hand():
    # Down: z = x . (1, 2). Expert 0: 2 relu(3 z), expert 1: relu(-z) + 1. Up: (y, -y).
    bank = LatentExperts(expert_dim=1, rank=1, activation="relu")
    params = {
        "descend": Shared(jnp.asarray([[1.0], [2.0]])),
        "ascend": Shared(jnp.asarray([[1.0, -1.0]])),
        "up": Dense(jnp.asarray([[[3.0]], [[-1.0]]])),
        "up_bias": jnp.zeros((2, 1)),
        "down": Dense(jnp.asarray([[[2.0]], [[1.0]]])),
        "down_bias": jnp.asarray([[0.0], [1.0]]),
    }
    z = bank.enter(params, jnp.asarray([[1.0, 1.0], [0.0, -1.0]]))
    np.testing.assert_allclose(z, [[3.0], [-2.0]])
    y = bank.apply(params, Ragged(z, jnp.asarray([1, 1]))).tokens
    np.testing.assert_allclose(y, [[18.0], [3.0]])
    np.testing.assert_allclose(bank.leave(params, y), [[18.0, -18.0], [3.0, -3.0]])
    weights = bank.materialise(params)
    np.testing.assert_allclose(weights["up"], [[[3.0], [6.0]], [[-1.0], [-2.0]]])
    np.testing.assert_allclose(weights["down_bias"], [[0.0, 0.0], [1.0, -1.0]])


def layer(experts):
    router = {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "noise_std": 0.0}
    return build_spec(MoE, {"router": router, "experts": experts})


def test_full_width_with_identities_is_exact():
    narrow, wide = layer({"name": "latent", "expert_dim": 6, "rank": 5}), layer({"name": "mlp", "expert_dim": 6})
    params, state = jax.jit(wide.init, static_argnums=1)(jax.random.key(0), 5)
    identity = {name: Shared(jnp.eye(5)) for name in ("descend", "ascend")}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5)), jnp.float32)
    out = jax.jit(narrow.apply)(params | {"experts": params["experts"] | identity}, state, x).tokens
    np.testing.assert_allclose(out, jax.jit(wide.apply)(params, state, x).tokens, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dispatch", ["ragged", "gather", "einsum"])
@pytest.mark.parametrize("ascend", [True, False])
def test_tokens_travel_at_the_latent_width(dispatch, ascend, monkeypatch):
    seen = []
    apply = LatentExperts.apply

    def watched(self, params, x, *, key=None):
        out = apply(self, params, x, key=key)
        seen.append((x.tokens.shape[-1], out.tokens.shape[-1]))
        return out

    monkeypatch.setattr(LatentExperts, "apply", watched)
    spec = layer({"name": "latent", "expert_dim": 6, "rank": 3, "ascend": ascend})
    spec = build_spec(MoE, {"router": spec.router, "experts": spec.experts, "dispatch": dispatch})
    params, state = jax.eval_shape(lambda: spec.init(jax.random.key(0), 8))
    assert params["router"]["kernel"].shape == (8, 4)  # routed by the whole token
    assert jax.eval_shape(spec.apply, params, state, jnp.ones((2, 6, 8))).tokens.shape == (2, 6, 8)
    assert seen == [(3, 3 if ascend else 8)]


def test_counts():
    # D = 8, R = 3, F = 6: 4 experts of 2 * 3 * 6 + 6 + 3, and 2 * 8 * 3 shared. An expert costs 4 R F, not 4 D F.
    bank = LatentExperts(expert_dim=6, rank=3)
    assert bank.num_params(4, 8) == 4 * 45 + 48
    assert bank.flops_per_token(8) == 72
    assert LatentExperts(expert_dim=6, rank=3, ascend=False).num_params(4, 8) == 4 * (18 + 48 + 6 + 8) + 24


def test_the_latent_space_keeps_the_variance():
    bank = LatentExperts(expert_dim=6, rank=64)
    params = bank.init(jax.random.key(0), 2, 256)
    x = jax.random.normal(jax.random.key(1), (500, 256))
    z = bank.enter(params, x)
    np.testing.assert_allclose(jnp.var(z), 1.0, rtol=0.1)
    np.testing.assert_allclose(
        jnp.var(bank.leave(params, jax.random.normal(jax.random.key(2), z.shape))), 1.0, rtol=0.1
    )


def test_materialised_experts_are_the_dense_bank():
    bank = LatentExperts(expert_dim=6, rank=3)
    params = bank.init(jax.random.key(0), 2, 5)
    weights = bank.materialise(params)
    dense = {name: Dense(w) if name in ("up", "down") else w for name, w in weights.items()}
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 5)), jnp.float32)
    want = MlpExperts(expert_dim=6).apply(dense, Buffers(x)).tokens
    got = bank.leave(params, bank.apply(params, Buffers(bank.enter(params, x))).tokens)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
