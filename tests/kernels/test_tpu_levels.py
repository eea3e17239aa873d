"""Levels (b) and (c) for the TPU kernels, and for every level up to (c) broken kernels that it must catch.

(a) `interpret=True`: the semantics. (b) TPU interpret mode: memory spaces, bounds, races between two cores and copies that
are not waited for. (c) lowering for TPU, with no TPU and no compiler for one: legal blocks and operations.
Level (d), ahead-of-time compilation, is in test_tpu_aot.py. None of the levels subsumes another.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh
from moejax_kernels.grouped_matmul import api

from tests.kernels import numpy_oracle as oracle

KINDS = ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite")
STRICT = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2, dma_execution_mode="on_wait")


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


# Broken kernels. Each is the same small tiled product with one thing wrong.


def tiled(x, w, *, interpret, blocks=(8, 128, 128), wrong="nothing"):
    """x w in tiles, right unless told otherwise."""
    (m, d), f = x.shape, w.shape[1]
    rows, depth, columns = blocks

    def body(a, b, out, total):
        if wrong != "sum never begins":
            pl.when(pl.program_id(2) == 0)(lambda: total.__setitem__(..., jnp.zeros_like(total)))
        total[...] += jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)
        pl.when(pl.program_id(2) == pl.num_programs(2) - 1)(lambda: out.__setitem__(..., total[...]))

    def all_at_once(a, b, out, total):
        del total
        pl.when(pl.program_id(0) == 0)(lambda: out.__setitem__(..., jnp.zeros_like(out)))
        out[...] += jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)

    race = wrong == "sum over a parallel axis"
    shift = 1 if wrong == "out of bounds" else 0
    grid = (d // depth,) if race else (m // rows, f // columns, d // depth)
    return pl.pallas_call(
        all_at_once if race else body,
        out_shape=jax.ShapeDtypeStruct((m, f), jnp.float32),
        grid=grid,
        in_specs=[
            pl.BlockSpec(
                (m if race else rows, depth), (lambda k: (0, k)) if race else (lambda i, j, k: (i + shift, k))
            ),
            pl.BlockSpec((depth, f if race else columns), (lambda k: (k, 0)) if race else (lambda i, j, k: (k, j))),
        ],
        out_specs=pl.BlockSpec(
            (m, f) if race else (rows, columns), (lambda k: (0, 0)) if race else (lambda i, j, k: (i, j))
        ),
        scratch_shapes=[pltpu.VMEM((rows, columns), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) if race else ("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
    )(x, w)


A, B = draw(16, 256), draw(256, 128, seed=1)


def agrees(found):
    return np.allclose(found, A @ B, atol=1e-3)


@pytest.mark.parametrize("interpret", [True, STRICT])
def test_the_sound_kernel_passes(interpret):
    assert agrees(tiled(A, B, interpret=interpret))
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


def test_level_b_catches_a_block_out_of_bounds():
    with pytest.raises(Exception, match="[Oo]ut-of-bounds"):
        jax.block_until_ready(tiled(A, B, interpret=STRICT, wrong="out of bounds"))


def told_of(run, capfd):
    """What a run in TPU interpret mode gives (None: an error), and all that it says."""
    try:
        return np.asarray(run()), "".join(capfd.readouterr()).lower()
    except Exception as error:
        return None, str(error).lower()


def test_level_b_catches_a_sum_over_a_parallel_axis(capfd):
    assert agrees(tiled(A, B, interpret=True, wrong="sum over a parallel axis"))  # level (a) cannot see it
    found, said = told_of(lambda: tiled(A, B, interpret=STRICT, wrong="sum over a parallel axis"), capfd)
    assert "race" in said or not agrees(found)


@pytest.mark.parametrize("waits", [True, False])
def test_level_b_catches_a_copy_that_is_not_waited_for(waits, capfd):
    def body(a, out, held, done):
        copy = pltpu.make_async_copy(a, held, done)
        copy.start()
        if waits:
            copy.wait()
        out[...] = held[...]

    def run():
        return pl.pallas_call(
            body,
            out_shape=jax.ShapeDtypeStruct((16, 256), jnp.float32),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
            scratch_shapes=[pltpu.VMEM((16, 256), jnp.float32), pltpu.SemaphoreType.DMA],
            interpret=STRICT,
        )(A)

    found, said = told_of(run, capfd)
    if waits:
        np.testing.assert_array_equal(found, A)
        assert "race" not in said
    else:
        assert "race" in said or not np.array_equal(found, A)


def test_level_c_catches_an_illegal_block():
    blocks = (8, 64, 96)
    x, w = draw(16, 128), draw(128, 192)
    np.testing.assert_allclose(tiled(x, w, interpret=True, blocks=blocks), x @ w, atol=1e-3)  # levels (a), (b): fine
    with pytest.raises(ValueError, match="divisible by 8 and 128"):
        lower("TPU v5 lite", functools.partial(tiled, interpret=False, blocks=blocks), x, w)
