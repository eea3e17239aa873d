"""Levels (b) and (c) for the TPU kernels, and for every level up to (c) broken kernels that it must catch.

(a) `interpret=True`: the semantics. (b) TPU interpret mode: memory spaces, bounds, races between two cores and copies that
are not waited for. (c) lowering for TPU, with no TPU and no compiler for one: legal blocks and operations.
Level (d), ahead-of-time compilation, is in test_tpu_aot.py. None of the levels subsumes another.
"""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh
from moejax_kernels.grouped_matmul import api

from tests.kernels import numpy_oracle as oracle
from tests.kernels.broken_tpu_kernels import STRICT, A, B, tiled

pytestmark = pytest.mark.slow

KINDS = ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite")


@pytest.fixture(autouse=True)
def fresh_interpreter():
    yield
    pltpu.reset_tpu_interpret_mode_state()


def lower(kind, function, *arguments):
    """Level (c): the program for a chip of that kind."""
    device = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments]
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        return jax.export.export(jax.jit(function), platforms=["tpu"])(*shapes)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


SIZES = np.array([5, 0, 9, 3], np.int32)  # 3 rows of 20 are nobody's
X, W, DY = draw(20, 130), draw(4, 130, 140, seed=1), draw(20, 140, seed=2)


@pytest.mark.parametrize("transposed", [False, True])
def test_product_and_gradients_in_tpu_interpret_mode(transposed):
    told = {"implementation": "pallas_tpu", "interpret": STRICT, "tiling": (8, 128, 128), "transposed": transposed}
    w = jnp.asarray(W.swapaxes(1, 2) if transposed else W)
    x, sizes = jnp.asarray(X).at[17:].set(jnp.nan), jnp.asarray(SIZES)
    y = api.grouped_matmul(x, w, sizes, **told)
    expected = oracle.product(np.nan_to_num(X), np.asarray(w), None, SIZES, DY, transposed=transposed)
    np.testing.assert_allclose(y, expected[0], rtol=1e-4, atol=1e-4)
    if not transposed:
        dw = api.grouped_outer(x, jnp.asarray(DY), sizes, **{k: v for k, v in told.items() if k != "transposed"})
        np.testing.assert_allclose(dw, expected[2], rtol=1e-4, atol=1e-4)


def test_gated_product_in_tpu_interpret_mode():
    told = {"implementation": "pallas_tpu", "interpret": STRICT, "tiling": (8, 128, 128)}
    y = api.grouped_gated_matmul(
        jnp.asarray(X), jnp.asarray(W), jnp.asarray(W[::-1].copy()), jnp.asarray(SIZES), **told
    )
    expected, *_ = oracle.gated(X, W, W[::-1], SIZES, DY)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_lowers_for_every_generation(kind, dtype):
    x, w = jax.ShapeDtypeStruct((1000, 1200), dtype), jax.ShapeDtypeStruct((4, 1200, 1300), dtype)
    bias, sizes = jax.ShapeDtypeStruct((4, 1300), dtype), jax.ShapeDtypeStruct((4,), jnp.int32)

    def plain(x, w, bias, sizes):
        def f(x, w, bias):
            y = api.grouped_matmul(x, w, sizes, bias=bias, activation="gelu_exact", implementation="pallas_tpu")
            return jnp.sum(y.astype(jnp.float32))

        y = api.grouped_matmul(x, w, sizes, bias=bias, activation="gelu", implementation="pallas_tpu")
        return y, jax.grad(f, argnums=(0, 1, 2))(x, w, bias)

    def gated(x, gate, up, sizes):
        return api.grouped_gated_matmul(x, gate, up, sizes, implementation="pallas_tpu")

    assert lower(kind, plain, x, w, bias, sizes).mlir_module().count("tpu_custom_call") >= 4
    assert "tpu_custom_call" in lower(kind, gated, x, w, w, sizes).mlir_module()


def agrees(found):
    return np.allclose(found, A @ B, atol=1e-3)


def test_the_sound_kernel_passes():
    assert agrees(tiled(A, B, interpret=True))
    lower("TPU v5 lite", functools.partial(tiled, interpret=False), A, B)


def test_level_a_catches_a_sum_that_never_begins():
    found = tiled(A, B, interpret=True, wrong="sum never begins")
    assert np.isnan(found).any()
    lower(
        "TPU v5 lite", functools.partial(tiled, interpret=False, wrong="sum never begins"), A, B
    )  # legal all the same


def test_level_a_catches_an_unmasked_tail():
    def unmasked(a, b, out):
        pl.when(pl.program_id(0) == 0)(lambda: out.__setitem__(..., jnp.zeros_like(out)))
        out[...] += jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)

    found = pl.pallas_call(
        unmasked,
        out_shape=jax.ShapeDtypeStruct((16, 128), jnp.float32),
        grid=(2,),
        in_specs=[pl.BlockSpec((16, 128), lambda k: (0, k)), pl.BlockSpec((128, 128), lambda k: (k, 0))],
        out_specs=pl.BlockSpec((16, 128), lambda k: (0, 0)),
        interpret=True,
    )(A[:, :200], B[:200])
    assert np.isnan(found).any()


@pytest.fixture
def told_of(root):
    """What a kernel of CASES in TPU interpret mode says, in a process of its own."""

    def run(name):
        known = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.kernels.broken_tpu_kernels", name],
            env={**os.environ, **known},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=300,  # a copy that is waited for twice would hang
            check=False,
        )
        return (done.stdout + done.stderr).lower()

    return run


@pytest.mark.parametrize("name", ["nothing wrong", "copy waited for"])
def test_level_b_passes_sound_kernels(name, told_of):
    said = told_of(name)
    assert "right" in said.splitlines()
    assert "race" not in said


@pytest.mark.slow
def test_level_b_catches_a_block_out_of_bounds(told_of):
    assert "out-of-bounds block index" in told_of("out of bounds")


@pytest.mark.slow
def test_level_b_catches_a_sum_over_a_parallel_axis(told_of):
    assert agrees(tiled(A, B, interpret=True, wrong="sum over a parallel axis"))  # level (a) cannot see it
    said = told_of("sum over a parallel axis")
    assert "race detected" in said or "wrong" in said.splitlines()


@pytest.mark.slow
def test_level_b_catches_a_copy_that_is_not_waited_for(told_of):
    said = told_of("copy not waited for")
    assert "race detected" in said or "wrong" in said.splitlines()


def test_level_c_catches_an_illegal_block():
    blocks = (8, 64, 96)
    x, w = draw(16, 128), draw(128, 192)
    np.testing.assert_allclose(tiled(x, w, interpret=True, blocks=blocks), x @ w, atol=1e-3)  # levels (a), (b): fine
    with pytest.raises(ValueError, match="divisible by 8 and 128"):
        lower("TPU v5 lite", functools.partial(tiled, interpret=False, blocks=blocks), x, w)
