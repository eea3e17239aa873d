"""The low-rank Hopper kernels in the Mosaic GPU interpreter, against loops over rows in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moejax_kernels import _compat
from moejax_kernels.hopper import limits
from moejax_kernels.lowrank_matmul import pallas_gpu, pallas_gpu_ffn
from moejax_kernels.lowrank_matmul.api import grouped_lowrank_ffn, grouped_lowrank_matmul, lowrank_attention

from tests.kernels.numpy_oracle import activation_and_slope, group_of_rows

pytestmark = pytest.mark.slow

NAMED = {"implementation": "pallas_gpu", "interpret": True}
SMALL = {**NAMED, "tiling": (64, 64, 64, 2), "preferred_element_type": jnp.float32}
SIZES, ROWS = (50, 0, 33), 100


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape) * 0.3, jnp.bfloat16) for shape in shapes)


def split(seed, *shapes):
    """x, and the factors as a tuple."""
    x, *factors = arrays(seed, *shapes)
    return x, tuple(factors)


def rounded(value):
    """To bfloat16 and back, as what enters a product is."""
    return np.asarray(jnp.asarray(value, jnp.float32).astype(jnp.bfloat16), np.float64)


def through(row, factors, group, rank):
    u, v = (np.asarray(f[group], np.float64) for f in factors)
    return rounded(row @ u[:, :rank]) @ v[:rank]


def product_by_loops(x, factors, ranks):
    out = np.zeros((len(x), factors[1].shape[2]))
    for m, e in enumerate(group_of_rows(SIZES, len(x))):
        if e >= 0:
            out[m] = through(np.asarray(x[m], np.float64), factors, e, ranks[e])
    return out


def ffn_by_loops(x, up, gate, down, ranks, activation):
    out = np.zeros((len(x), down[1].shape[2]))
    for m, e in enumerate(group_of_rows(SIZES, len(x))):
        if e < 0:
            continue
        row = np.asarray(x[m], np.float64)
        value = through(row, up, e, ranks[e])
        if gate is None:
            value = activation_and_slope(activation, value)[0]
        else:
            value = activation_and_slope(activation, through(row, gate, e, gate[0].shape[2]))[0] * value
        out[m] = through(rounded(value), down, e, down[0].shape[2])
    return out


def close(got, want, tolerance):
    scale = np.abs(want).max()
    np.testing.assert_allclose(np.asarray(got, np.float64) / scale, want / scale, atol=tolerance)


@pytest.mark.parametrize("ranks", [None, (100, 7, 40), (0, 0, 64)])
def test_product_equals_loops(ranks):
    x, u, v = arrays(0, (ROWS, 72), (3, 72, 100), (3, 100, 136))
    given = None if ranks is None else jnp.array(ranks, jnp.int32)
    spoilt = x.at[sum(SIZES) :].set(jnp.nan)
    got = grouped_lowrank_matmul(spoilt, u, v, jnp.array(SIZES, jnp.int32), ranks=given, **SMALL)
    want = product_by_loops(x, (u, v), ranks or (100, 100, 100))
    close(got, want, 2e-3)  # a middle that lies between two bfloat16 may be rounded either way
    assert not np.asarray(got)[sum(SIZES) :].any()


@pytest.mark.parametrize("is_gated", [False, True])
def test_ffn_equals_loops(is_gated):
    x, factors = split(1, (ROWS, 72), (3, 72, 40), (3, 40, 136), (3, 136, 200), (3, 200, 24), (3, 72, 80), (3, 80, 136))
    up, down, gate = factors[:2], factors[2:4], factors[4:] if is_gated else None
    spoilt = x.at[sum(SIZES) :].set(jnp.nan)
    given = jnp.array((40, 7, 20), jnp.int32)
    got = grouped_lowrank_ffn(
        spoilt, up, down, jnp.array(SIZES, jnp.int32), gate=gate, activation="silu", up_ranks=given, **SMALL
    )
    close(got, ffn_by_loops(x, up, gate, down, (40, 7, 20), "silu"), 5e-3)
    assert not np.asarray(got)[sum(SIZES) :].any()


@pytest.mark.parametrize("entry", ["product", pytest.param("ffn", marks=pytest.mark.slow)])
def test_gradients_equal_those_of_the_reference(entry):
    x, factors = split(2, (24, 16), (2, 16, 8), (2, 8, 24), (2, 24, 8), (2, 8, 16))
    sizes = jnp.array([10, 9], jnp.int32)

    def gradients(**named):
        def loss(x, factors):
            if entry == "product":
                y = grouped_lowrank_matmul(x, *factors[:2], sizes, **named)
            else:
                y = grouped_lowrank_ffn(x, factors[:2], factors[2:], sizes, activation="gelu", **named)
            return jnp.sum(y.astype(jnp.float32) ** 2)

        return jax.grad(loss, (0, 1))(x, factors)

    found, wanted = gradients(**NAMED), gradients(implementation="reference")
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if np.asarray(want, np.float32).any():
            close(got, np.asarray(want, np.float64), 3e-2)


def test_no_races(capfd):
    x, factors = split(3, (ROWS, 64), (3, 64, 64), (3, 64, 64), (3, 64, 64), (3, 64, 64))
    checked = {**SMALL, "interpret": _compat.gpu_interpreter_params()(detect_races=True)}
    sizes = jnp.array(SIZES, jnp.int32)
    got = grouped_lowrank_ffn(x, factors[:2], factors[2:], sizes, activation="relu", **checked)
    close(got, ffn_by_loops(x, factors[:2], None, factors[2:], (64, 64, 64), "relu"), 5e-3)
    told = capfd.readouterr()
    assert "RACE" not in told.out + told.err


def test_ranks_that_no_block_holds_are_refused_with_the_numbers():
    x, u, v = arrays(4, (8, 64), (1, 64, 2048), (1, 2048, 64))
    sizes = jnp.array([8], jnp.int32)
    with pytest.raises(
        ValueError, match=r"needs \d+ bytes of shared memory and a block has 232448.*implementation='xla'"
    ):
        grouped_lowrank_matmul(x, u, v, sizes, **SMALL)
    with pytest.raises(ValueError, match=r"lowrank_ffn.*needs \d+ bytes.*232448"):
        grouped_lowrank_ffn(x, (u, v), (u, v), sizes, activation=None, **SMALL)


def test_attention_is_refused_with_the_way_out():
    x, u, v = arrays(5, (1, 8, 16), (16, 8), (8, 16))
    with pytest.raises(NotImplementedError, match="implementation='xla'"):
        lowrank_attention(x, (u, v), (u, v), (u, v), num_heads=2, **NAMED)


def test_models_of_shared_memory_grow_with_the_rank():
    tile = limits.Tiling(64, 64, 64)
    assert pallas_gpu.shared_bytes(tile, 128, 2) < pallas_gpu.shared_bytes(tile, 512, 2) <= limits.SHARED_BYTES
    one, two = (pallas_gpu_ffn.shared_bytes(tile, ranks, 128, 2) for ranks in ((128,), (128, 128)))
    assert one + 64 * 128 * 2 <= two
