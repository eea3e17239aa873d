"""Low-rank FFN of buffers: blocks of every kind equal the grouped product, in value and gradients, and hold little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moejax_kernels.lowrank_matmul import batched_lowrank_ffn, grouped_lowrank_ffn
from moejax_kernels.lowrank_matmul.batched import cut

pytestmark = pytest.mark.slow

E, C, D, R, F, S, O = 4, 6, 5, 3, 7, 2, 8


def draw(seed, *shape):
    return jnp.asarray(0.5 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands(gated, biased):
    pairs = {"up": (draw(1, E, D, R), draw(2, E, R, F)), "down": (draw(3, E, F, S), draw(4, E, S, O))}
    pairs["gate"] = (draw(5, E, D, R + 1), draw(6, E, R + 1, F)) if gated else None
    return draw(0, E, C, D), pairs, draw(7, E, F) if biased else None


def test_cut():
    assert cut(4, 6, 7, 10**6) == (4, 1)  # all at once
    assert cut(4, 6, 7, 2 * 6 * 7) == (2, 1)  # two experts at once
    assert cut(6, 6, 7, 4 * 6 * 7) == (3, 1)  # four do not divide six
    assert cut(4, 6, 7, 6 * 7) == (1, 1)
    assert cut(4, 6, 7, 6 * 7 - 1) == (1, 2)  # three rows of an expert
    assert cut(4, 6, 7, 10) == (1, 6)
    assert cut(1, 97, 7, 97 * 7 // 3) == (1, 1)  # 97 rows cannot be cut
    assert cut(3, 0, 7, 10) == (3, 1)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("block", [10**6, 2 * C * F, C * F, 2 * F])
def test_equals_the_grouped_product(block, gated):
    x, pairs, bias = operands(gated, not gated)
    ranks = {"up_ranks": jnp.array([3, 0, 2, 1])} if gated else {}

    def buffers(x, pairs, bias):
        return batched_lowrank_ffn(
            x, **pairs, up_bias=bias, activation="silu", implementation="xla", tiling=(block,), **ranks
        )

    def rows(x, pairs, bias):
        sizes = jnp.full((E,), C, jnp.int32)
        told = {"up_bias": bias, "activation": "silu", "implementation": "reference"} | ranks
        return grouped_lowrank_ffn(x.reshape(-1, D), group_sizes=sizes, **pairs, **told).reshape(E, C, O)

    found, wanted = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2)))(x, pairs, bias)
        for f in (buffers, rows)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jit(buffers)(x, pairs, bias), rows(x, pairs, bias), rtol=1e-4, atol=1e-5)


def test_other_implementations_are_the_grouped_ones():
    x, pairs, bias = operands(False, True)
    told = {"up_bias": bias, "activation": "gelu"}
    y = batched_lowrank_ffn(x, **pairs, **told, implementation="reference")
    np.testing.assert_allclose(y, batched_lowrank_ffn(x, **pairs, **told, implementation="xla"), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="runs on tpu only"):
        batched_lowrank_ffn(x, **pairs, **told, implementation="pallas_tpu")


@pytest.mark.parametrize("backward", [False, True])
def test_no_hidden_rows_are_held(backward):
    experts, rows, hidden, block = 2, 512, 256, 2**14
    pairs = {"up": (draw(1, experts, 8, 2), draw(2, experts, 2, hidden))}
    pairs["down"] = (draw(3, experts, hidden, 2), draw(4, experts, 2, 8))
    x = draw(0, experts, rows, 8)

    def ffn(x, pairs):
        return batched_lowrank_ffn(x, **pairs, activation="gelu", implementation="xla", tiling=(block,))

    run = jax.grad(lambda *a: jnp.sum(ffn(*a) ** 2), argnums=(0, 1)) if backward else ffn
    held = jax.jit(run).lower(x, pairs).compile().memory_analysis().temp_size_in_bytes
    assert held < 4 * experts * rows * hidden / 2, held
