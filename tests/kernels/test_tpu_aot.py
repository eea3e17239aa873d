"""Level (d): TPU kernels compiled ahead of time for real chips that are not there, at the shapes of real models, in bfloat16.

Needs libtpu (`pip install 'jax[tpu]'`). The compiler checks alignment, vector and device memory; it runs nothing.
"""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from bench import tpu_static
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P
from moejax_kernels import tpu_memory
from moejax_kernels.grouped_matmul import api
from moejax_kernels.lowrank_matmul import grouped_lowrank_ffn, grouped_lowrank_matmul, lowrank_attention

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed; `pip install 'jax[tpu]'` brings the compiler for TPUs",
    ),
]
GENERATIONS = ("v4", "v5e", "v5p", "v6e")
MOST_WORK = 1.1  # times the useful FLOPs


@pytest.fixture(autouse=True, scope="module")
def compiler_alone():
    """No look-up of cloud metadata, and several processes may load the compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield


def bfloat16(*shape):
    return shape, jnp.bfloat16


def work_over_useful(compiled, flops):
    return compiled.cost_analysis()["flops"] / flops


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("model", tpu_static.MODELS)
def test_product_and_gradients_compile(generation, model):
    m, d, f, e = tpu_static.MODELS[model]
    x, w, sizes = ((m, d), jnp.bfloat16), ((e, d, f), jnp.bfloat16), ((e,), jnp.int32)

    def run(x, w, dy, sizes):
        y, pullback = jax.vjp(lambda x, w: api.grouped_matmul(x, w, sizes, implementation="pallas_tpu"), x, w)
        return y, pullback(dy)

    compiled = tpu_static.compile_for(generation, run, [x, w, ((m, f), jnp.bfloat16), sizes])
    assert 1 <= work_over_useful(compiled, 3 * 2 * m * d * f) <= MOST_WORK
    assert compiled.memory_analysis().temp_size_in_bytes < 2**20  # nothing of the size of an operand


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("model", ["mixtral", "deepseek"])
def test_gated_product_compiles(generation, model):
    function, specs, flops = tpu_static.case("gated", model, None)
    compiled = tpu_static.compile_for(generation, function, specs)
    assert 1 <= work_over_useful(compiled, flops) <= MOST_WORK


@pytest.mark.parametrize("generation", GENERATIONS)
def test_float32_with_epilogue_and_tails_compiles(generation):
    def run(x, w, bias, dy, sizes):
        told = {"implementation": "pallas_tpu", "precision": "highest", "activation": "gelu"}
        y, pullback = jax.vjp(lambda x, w, b: api.grouped_matmul(x, w, sizes, bias=b, **told), x, w, bias)
        return y, pullback(dy)

    m, d, f, e = 1001, 2500, 1300, 5  # nothing divides a tile
    shapes = [(m, d), (e, d, f), (e, f), (m, f)]
    tpu_static.compile_for(generation, run, [*((s, jnp.float32) for s in shapes), ((e,), jnp.int32)])


def test_a_dense_masked_lowering_is_caught():
    m, d, f, e = 512, 256, 256, 8

    def run(x, w, sizes):
        return api.grouped_matmul(x, w, sizes, implementation="reference")

    specs = [((m, d), jnp.bfloat16), ((e, d, f), jnp.bfloat16), ((e,), jnp.int32)]
    assert work_over_useful(tpu_static.compile_for("v5e", run, specs), 2 * m * d * f) > 0.9 * e > MOST_WORK


def test_inside_shard_map_with_its_checks():
    def local(x, w, sizes):
        def loss(x, w):
            y = api.grouped_matmul(x, w, sizes[0], implementation="pallas_tpu")
            return jax.lax.psum(jnp.sum(y.astype(jnp.float32)), "x")

        return jax.grad(loss, argnums=(0, 1))(x, w)

    def run(x, w, sizes):
        where = {"in_specs": (P("x"), P(), P("x")), "out_specs": (P("x"), P())}
        return jax.shard_map(local, **where)(x, w, sizes)

    specs = [((4 * 256, 256), jnp.bfloat16), ((4, 256, 256), jnp.bfloat16), ((4, 4), jnp.int32)]
    compiled = tpu_static.compile_for("v5e", run, specs, devices=4)
    assert "all-reduce" in compiled.as_text()  # the gradient of a kernel that all devices share


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("model", ["vmoe", "mixtral", "deepseek"])
def test_lowrank_products_compile(generation, model):
    m, d, f, e = tpu_static.MODELS[model]
    r = tpu_memory.round_up(d // 4, tpu_memory.LANES)  # else the compiler copies factors into the layout of kernels
    spec = bfloat16
    x, sizes = spec(m, d), ((e,), jnp.int32)
    up, down = [spec(e, d, r), spec(e, r, f)], [spec(e, f, r), spec(e, r, d)]

    def product(x, u, v, sizes):
        return grouped_lowrank_matmul(x, u, v, sizes, implementation="pallas_tpu")

    def ffn(x, u, v, gate_u, gate_v, down_u, down_v, sizes):
        told = {"gate": (gate_u, gate_v), "activation": "silu", "implementation": "pallas_tpu"}
        return grouped_lowrank_ffn(x, (u, v), (down_u, down_v), sizes, **told)

    flops = 2 * m * r * (d + f)
    for function, specs, useful in ((product, [x, *up, sizes], flops), (ffn, [x, *up, *up, *down, sizes], 3 * flops)):
        compiled = tpu_static.compile_for(generation, function, specs)
        assert 1 <= work_over_useful(compiled, useful) <= MOST_WORK
        assert compiled.memory_analysis().temp_size_in_bytes < 2**20  # no [M R], no [M F]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_lowrank_gradients_and_attention_compile(generation):
    spec = bfloat16

    def gradients(x, u, v, down_u, down_v, sizes):
        def loss(x, u, v, down_u, down_v):
            told = {"activation": "gelu", "implementation": "pallas_tpu"}
            return jnp.sum(grouped_lowrank_ffn(x, (u, v), (down_u, down_v), sizes, **told).astype(jnp.float32))

        return jax.grad(loss, argnums=(0, 1, 2, 3, 4))(x, u, v, down_u, down_v)

    m, d, f, e = 4096, 768, 3072, 8
    factors = [spec(e, d, 192), spec(e, 192, f), spec(e, f, 192), spec(e, 192, d)]
    tpu_static.compile_for(generation, gradients, [spec(m, d), *factors, ((e,), jnp.int32)])

    def attention(x, u, v):
        told = {"num_heads": 12, "causal": True, "implementation": "pallas_tpu"}
        return lowrank_attention(x, (u, v), (u, v), (u, v), **told)

    compiled = tpu_static.compile_for(generation, attention, [spec(4, 1000, 768), spec(768, 192), spec(192, 768)])
    heads_by_tokens_squared = 4 * 12 * 1000 * 1000 * 2
    assert compiled.memory_analysis().temp_size_in_bytes < heads_by_tokens_squared / 2  # no scores


# What this level catches: both kernels are fine at levels (a) to (c).


def test_level_d_catches_vector_memory_beyond_the_limit():
    side = 2048  # three blocks of 16 MiB, against 16 MiB that a kernel has unless it asks for more

    def run(x):
        block = pl.BlockSpec((side, side), lambda i: (0, 0))
        return pl.pallas_call(
            lambda a, out: out.__setitem__(..., a[...] * 2),
            out_shape=jax.ShapeDtypeStruct((side, side), jnp.float32),
            grid=(1,),
            in_specs=[block],
            out_specs=block,
        )(x)

    with pytest.raises(Exception, match="(?i)vmem"):
        tpu_static.compile_for("v5e", run, [((side, side), jnp.float32)])
    assert 2 * 2 * tpu_memory.block_bytes((side, side), jnp.float32) > 16 * tpu_memory.MIB


def test_level_d_catches_an_unaligned_slice_of_lanes():
    def run(x, at):
        return pl.pallas_call(
            lambda at, a, out: out.__setitem__(..., a[:, pl.ds(at[0], 128)]),
            out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
            in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), pl.BlockSpec(memory_space=pltpu.VMEM)],
        )(at, x)

    with pytest.raises(Exception, match="multiple of 128"):
        tpu_static.compile_for("v5e", run, [((8, 512), jnp.float32), ((1,), jnp.int32)])
