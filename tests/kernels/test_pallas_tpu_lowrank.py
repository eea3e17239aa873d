"""Low-rank kernels for TPU at levels (a) `interpret=True`, (b) TPU interpret mode and (c) lowering; (d) is in test_tpu_aot.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh
from moejax_kernels import tpu_memory
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.lowrank_matmul import grouped_lowrank_ffn, grouped_lowrank_matmul, lowrank_attention, pallas_tpu

from tests.kernels.test_lowrank_matmul import (
    PATTERNS,
    assert_close,
    draw_factors,
    draw_rows,
    draw_sizes,
    loops,
    silu,
)

pytestmark = pytest.mark.slow

E, M = 4, 41
SMALL = {"d": 6, "r": 3, "f": 7, "s": 2, "o": 5}
TAILS = {"d": 130, "r": 3, "f": 140, "s": 5, "o": 150}  # two tiles of 128 and a tail each way
TILINGS = {"product": (16, 128, 128), "ffn": (16, 128, 128, 128), "gated": (16, 128, 128, 128)}
STRICT = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2, dma_execution_mode="on_wait")


def operands(kind, sizes, dims, dtype=jnp.float32, rows=M):
    """x, up, gate, down and the cotangent for one of 'product', 'ffn', 'gated'."""
    d, r, f, s, o = dims.values()
    up = draw_factors(2, E, d, r, f, dtype=dtype)
    gate = draw_factors(3, E, d, r + 1, f, dtype=dtype) if kind == "gated" else None
    down = None if kind == "product" else draw_factors(4, E, f, s, o, dtype=dtype)
    x, dy = draw_rows(1, rows, d, sizes, dtype), draw_rows(5, rows, f if kind == "product" else o, sizes, dtype)
    return x, up, gate, down, dy


def compute(x, up, gate, down, sizes, **told):
    told = {"implementation": "pallas_tpu", "interpret": True, **told}
    if down is None:
        return grouped_lowrank_matmul(x, *up, sizes, **told)
    return grouped_lowrank_ffn(x, up, down, sizes, gate=gate, activation="silu", **told)


@functools.partial(jax.jit, static_argnames="tiling")
def value_and_gradients(x, up, gate, down, sizes, dy, *, tiling=None):
    y, pull = jax.vjp(lambda *a: compute(*a, sizes, tiling=tiling), x, up, gate, down)
    return y, *pull(dy)


@pytest.mark.parametrize("kind", ["product", "ffn", "gated"])
def test_every_pattern_of_empty_groups(kind):
    for pattern in PATTERNS:
        sizes = draw_sizes(pattern)
        x, up, gate, down, dy = operands(kind, sizes, SMALL)
        if sum(pattern) in (0, 2):  # gradients are those of grouped products; their own tests take every pattern
            found = value_and_gradients(x, up, gate, down, jnp.array(sizes, jnp.int32), dy)
            assert_close(found, loops(x, up, gate, down, sizes, dy))
            assert not any(np.any(g[e]) for g in jax.tree.leaves(found[2:]) for e in np.flatnonzero(sizes == 0))
        y = forward(x, up, gate, down, jnp.array(sizes, jnp.int32), tiling=(16, *TILINGS[kind][1:]))
        assert_close(y, loops(x, up, gate, down, sizes, dy)[0])
        assert not np.any(y[sizes.sum() :])


@functools.partial(jax.jit, static_argnames="tiling")
def forward(x, up, gate, down, sizes, *, tiling=None):
    return compute(x, up, gate, down, sizes, tiling=tiling)


@pytest.mark.parametrize("kind", ["product", "ffn", "gated"])
def test_sizes_that_no_tile_divides(kind):
    for pattern in ((1, 0, 1, 1), (0, 0, 1, 0)):
        sizes = draw_sizes(pattern)
        x, up, gate, down, dy = operands(kind, sizes, TAILS)
        y = forward(x, up, gate, down, jnp.array(sizes, jnp.int32), tiling=TILINGS[kind])
        assert_close(y, loops(x, up, gate, down, sizes, dy)[0])


def test_pieces_of_long_tiles():
    sizes = np.array([130, 3, 0, 200])
    x, up, gate, down, dy = operands("gated", sizes, SMALL, rows=350)
    y = forward(x, up, gate, down, jnp.array(sizes, jnp.int32), tiling=(256, 6, 7, 5))
    assert_close(y, loops(x, up, gate, down, sizes, dy)[0])


def test_bfloat16_within_its_rounding():
    sizes = np.array([11, 0, 20, 5])
    x, up, gate, down, dy = operands("gated", sizes, TAILS, jnp.bfloat16)
    y = forward(x, up, gate, down, jnp.array(sizes, jnp.int32), tiling=TILINGS["gated"])
    assert y.dtype == jnp.bfloat16
    assert_close(y, loops(x, up, gate, down, sizes, dy)[0], 4 * 2.0**-8)


def test_ranks_beyond_which_factors_count_as_absent():
    sizes = np.array([11, 9, 13, 5])
    x, (u, v), _, _, dy = operands("product", sizes, SMALL)
    ranks = np.array([0, 3, 1, 2])
    beyond = np.arange(3) >= ranks[:, None]
    told = {"ranks": jnp.array(ranks, jnp.int32), "implementation": "pallas_tpu", "interpret": True}
    full = jnp.where(beyond[:, None], jnp.nan, u), jnp.where(beyond[..., None], jnp.nan, v)
    y = grouped_lowrank_matmul(x, *full, jnp.array(sizes, jnp.int32), **told)
    cut = np.where(beyond[:, None], 0, u), np.where(beyond[..., None], 0, v)
    assert_close(y, loops(x, cut, None, None, sizes, dy)[0])


def attend(x, query, key, value, heads, *, causal):
    """Softmax attention in NumPy, float64, a head at a time."""
    x, query, key, value = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, query, key, value))
    q, k, v = (np.split(x @ u @ w, heads, axis=-1) for u, w in (query, key, value))
    out = []
    for a, b, c in zip(q, k, v, strict=True):
        scores = a @ b.swapaxes(1, 2) / np.sqrt(a.shape[-1])
        if causal:
            scores = np.where(np.tri(x.shape[1], dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(weights / weights.sum(-1, keepdims=True) @ c)
    return np.concatenate(out, -1)


def attention_operands(tokens=21, dtype=jnp.float32):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, tokens, 6)), dtype)
    return x, *(draw_factors(s, 6, r, n, dtype=dtype) for s, r, n in ((1, 3, 8), (2, 4, 8), (3, 2, 10)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tiling", [(8, 16), (16, 8), None])
def test_attention(causal, tiling):
    told = {"num_heads": 2, "causal": causal, "implementation": "pallas_tpu", "interpret": True, "tiling": tiling}
    operands = attention_operands()
    y, pull = jax.vjp(jax.jit(lambda *a: lowrank_attention(*a, **told)), *operands)
    assert_close(y, attend(*operands, 2, causal=causal))
    if tiling is None:
        told |= {"implementation": "reference", "interpret": False}
        assert_close(pull(jnp.cos(y)), jax.vjp(lambda *a: lowrank_attention(*a, **told), *operands)[1](jnp.cos(y)))


@pytest.mark.parametrize("kind", ["product", "gated"])
def test_tpu_interpret_mode(kind):
    sizes = np.array([5, 0, 9, 3])
    x, up, gate, down, dy = operands(kind, sizes, TAILS, rows=20)
    y = compute(x, up, gate, down, jnp.array(sizes, jnp.int32), tiling=(8, *TILINGS[kind][1:]), interpret=STRICT)
    assert_close(y, loops(x, up, gate, down, sizes, dy)[0])


def test_attention_in_tpu_interpret_mode():
    operands = attention_operands()
    told = {"implementation": "pallas_tpu", "interpret": STRICT, "tiling": (8, 16)}
    assert_close(lowrank_attention(*operands, num_heads=2, causal=True, **told), attend(*operands, 2, causal=True))


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite"])
def test_lowers_for_every_generation(kind):
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    x, sizes = shape((1000, 1200)), jax.ShapeDtypeStruct((4,), jnp.int32)
    up, down = (shape((4, 1200, 300)), shape((4, 300, 2600))), (shape((4, 2600, 200)), shape((4, 200, 1100)))
    tokens = shape((2, 700, 512))
    factor = (shape((512, 96)), shape((96, 4 * 64)))

    def run(x, up, gate, down, sizes, tokens, factor):
        told = {"implementation": "pallas_tpu"}
        attended = lowrank_attention(tokens, factor, factor, factor, num_heads=4, causal=True, **told)
        plain = grouped_lowrank_matmul(x, *up, sizes, **told)
        return attended, plain, grouped_lowrank_ffn(x, up, down, sizes, gate=gate, activation="gelu", **told)

    device = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        exported = jax.export.export(jax.jit(run), platforms=["tpu"])(x, up, up, down, sizes, tokens, factor)
    assert exported.mlir_module().count("tpu_custom_call") >= 3


@pytest.mark.parametrize(
    "tiling, message",
    [
        ((8, 128), "positive sizes"),
        ((8, 100, 128), "depth=100 is not a multiple of 128"),
        ((4096, 2048, 8192), "needs .* MiB"),
    ],
)
def test_what_is_refused(tiling, message):
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)

    def run(x, u, v):
        return grouped_lowrank_matmul(
            x, u, v, jnp.array([3, 4], jnp.int32), implementation="pallas_tpu", interpret=True, tiling=tiling
        )

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, shape((8192, 8192)), shape((2, 8192, 256)), shape((2, 256, 8192)))


def test_attention_refuses_a_tiling_of_another_kind():
    with pytest.raises(ValueError, match=r"two positive sizes: \(queries, keys\)"):
        lowrank_attention(*attention_operands(), num_heads=2, implementation="pallas_tpu", interpret=True, tiling=(8,))


def test_no_middle_is_written():
    # What the program holds beside operands and results is metadata of groups: no [M R], no [M F].
    d, r, f, s, o = 64, 32, 512, 16, 64
    x, up, gate, down, _ = operands(
        "gated", np.array([400, 0, 600, 24]), dict(zip("drfso", (d, r, f, s, o))), rows=1024
    )
    options = Options(implementation="pallas_tpu", dtype=jnp.dtype(jnp.float32), interpret=True)
    sizes = jnp.array([400, 0, 600, 24], jnp.int32)
    told = {"ranks": (None, None, None), "activation": "silu", "options": options}
    traced = jax.make_jaxpr(lambda *a: pallas_tpu.ffn(*a, **told))(x, up, gate, down, sizes)
    outside = [v.aval.size for eqn in traced.eqns for v in eqn.outvars]
    assert max(outside) == 1024 * o
    assert sum(size > 1024 for size in outside) == 1


def test_defaults_fit_every_generation(monkeypatch):
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    for held in tpu_memory.chips().values():
        monkeypatch.setattr(tpu_memory, "chip", lambda target, held=held: held)
        for d, f, e in ((768, 3072, 32), (4096, 14336, 8), (2048, 1408, 64)):
            up, down = (shape((e, d, d // 4)), shape((e, d // 4, f))), (shape((e, f, d // 4)), shape((e, d // 4, d)))
            sizes = jax.ShapeDtypeStruct((e,), jnp.int32)
            for pair, wide in ((up, d), (down, f)):
                jax.eval_shape(lambda x, p, s: compute(x, p, None, None, s), shape((8192, wide)), pair, sizes)
            jax.eval_shape(compute, shape((8192, d)), up, up, down, sizes)


def test_silu_of_the_loops_is_that_of_the_kernels():
    z = np.linspace(-4, 4, 9, dtype=np.float32)
    np.testing.assert_allclose(silu(z), jax.nn.silu(z), rtol=1e-5)
