"""Grouped products of the TPU kernels, level (a): `interpret=True`, values and gradients against NumPy loops in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moejax_kernels import tpu_memory
from moejax_kernels.grouped_matmul import api, pallas_tpu_tiles, work_items
from moejax_kernels.platforms import Target

from tests.child_programs import output_of
from tests.kernels import numpy_oracle as oracle

PATTERNS = [np.array(p, np.int32) * np.array([7, 3, 11, 1, 19], np.int32) for p in itertools.product((0, 1), repeat=5)]
ROWS = 45
TPU = {"implementation": "pallas_tpu", "interpret": True}


def draw(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=tolerance, atol=tolerance)


@functools.cache
def program(transposed, activation, with_bias, tiling):
    def run(x, w, bias, sizes, dy):
        def f(x, w, bias):
            told = {**TPU, "transposed": transposed, "activation": activation, "tiling": tiling}
            return api.grouped_matmul(x, w, sizes, bias=bias, **told)

        y, pullback = jax.vjp(f, x, w, bias if with_bias else None)
        return y, *(g for g in pullback(dy) if g is not None)

    return jax.jit(run)


def operands(rows, d, f, transposed):
    w = draw(5, *((f, d) if transposed else (d, f)), seed=2, scale=d**-0.5)
    return draw(rows, d), w, draw(5, f, seed=3), draw(rows, f, seed=1)


@pytest.mark.parametrize(
    "d, f, transposed, activation, with_bias, tiling, patterns",
    [
        (5, 3, False, "gelu", True, None, PATTERNS[::3]),
        (12, 20, True, "silu", False, (16, 128, 128), PATTERNS),  # three tiles of rows, shared by groups
        (
            130,
            150,
            False,
            None,
            False,
            (16, 128, 128),
            PATTERNS[:2] + PATTERNS[13:15] + PATTERNS[-1:],
        ),  # tails everywhere
        (150, 130, True, None, True, (24, 128, 128), PATTERNS[21:23] + PATTERNS[-1:]),
    ],
)
def test_every_pattern_of_empty_groups(d, f, transposed, activation, with_bias, tiling, patterns):
    x, w, bias, dy = operands(ROWS, d, f, transposed)
    run = program(transposed, activation, with_bias, tiling)
    for sizes in patterns:
        # What follows the last group reaches nothing, be it NaN.
        left = np.where(np.arange(ROWS)[:, None] < sizes.sum(), 1, np.nan).astype(np.float32)
        found = run(x * left, w, bias, sizes, dy * left)
        told = {"transposed": transposed, "activation": activation}
        close(found, oracle.product(x, w, bias if with_bias else None, sizes, dy, **told), 5e-5)
        assert not np.any(found[0][sizes.sum() :])
        assert not np.any(found[1][sizes.sum() :])
        for e in np.flatnonzero(sizes == 0):
            assert not any(np.any(g[e]) for g in found[2:])


@pytest.mark.parametrize("d, f, tiling", [(5, 3, None), (130, 150, (16, 128, 128))])
def test_gated_pair_and_outer(d, f, tiling):
    @jax.jit
    def run(x, gate, up, sizes, dy):
        y, pullback = jax.vjp(lambda *a: api.grouped_gated_matmul(*a, sizes, tiling=tiling, **TPU), x, gate, up)
        alone = api.grouped_gated_matmul(x, gate, up, sizes, tiling=tiling, **TPU)
        return y, *pullback(dy), api.grouped_outer(x, dy, sizes, tiling=tiling, **TPU), alone

    x, gate, up, dy = draw(ROWS, d), draw(5, d, f, seed=1, scale=d**-0.5), draw(5, d, f, seed=2), draw(ROWS, f, seed=3)
    for sizes in PATTERNS[:: 1 if tiling is None else 11]:
        y, *gradients = oracle.gated(x, gate, up, sizes, dy)
        close(run(x, gate, up, sizes, dy), (y, *gradients, oracle.outer(x, dy, sizes), y), 1e-4)


def test_bfloat16_sums_in_float32():
    x, w, _, dy = operands(ROWS, 200, 24, False)
    x, w, dy = (np.asarray(jnp.asarray(a, jnp.bfloat16)) for a in (x, w, dy))
    sizes = PATTERNS[-3]
    found = program(False, None, False, (16, 128, 128))(x, w, None, sizes, dy)
    assert all(a.dtype == jnp.bfloat16 for a in found)
    expected = oracle.product(*(np.asarray(a, np.float32) for a in (x, w)), None, sizes, np.asarray(dy, np.float32))
    for a, b in zip(found, expected, strict=True):
        # One rounding of the sum, of half a unit in the last of 8 bits; sums in bfloat16 would be off by several.
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("generation", ["v5e", "v6e"])  # bodies of 128 rows, the same as pieces; larger bodies
def test_whole_tiles_and_pieces(generation, monkeypatch):
    monkeypatch.setattr(tpu_memory, "chip", lambda target: tpu_memory.chips()[generation])
    rows, sizes = 1100, np.array([520, 3, 0, 511, 40], np.int32)
    x, w, dy = draw(rows, 4), draw(5, 4, 3, seed=1), draw(rows, 3, seed=2)
    x[sizes.sum() :] = np.nan

    @jax.jit
    def run(x, w, dy):
        y, pullback = jax.vjp(lambda x, w: api.grouped_matmul(x, w, sizes, tiling=(512, 4, 3), **TPU), x, w)
        return y, *pullback(dy)

    sizes = jnp.asarray(sizes)
    close(run(x, w, dy), oracle.product(np.nan_to_num(x), w, None, np.asarray(sizes), dy), 2e-4)


def loss(x, w, sizes):
    return jnp.sum(jnp.sin(api.grouped_matmul(x, w, sizes, **TPU)))


@pytest.mark.slow
def test_under_vmap_scan_and_remat():
    x, w, _, _ = operands(ROWS, 5, 4, False)
    w, stacked = jnp.asarray(w), jnp.asarray(np.stack([x, 2 * x]))
    sizes = jnp.asarray(np.stack([PATTERNS[-1], PATTERNS[9]]))
    value = jax.value_and_grad(loss, argnums=(0, 1))
    alone = [value(a, w, s) for a, s in zip(stacked, sizes, strict=True)]
    both = jax.jit(jax.vmap(value, in_axes=(0, None, 0)))(stacked, w, sizes)
    again = jax.jit(lambda xs, ss: jax.lax.scan(lambda c, a: (c, jax.checkpoint(value)(a[0], w, a[1])), 0, (xs, ss))[1])
    for found in (both, again(stacked, sizes)):
        jax.tree.map(lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=1e-5, atol=1e-5), found, *alone)


SHARDED = """
import jax, numpy as np
from jax.sharding import PartitionSpec as P
from moejax_kernels.grouped_matmul import grouped_matmul
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
draw = np.random.default_rng(0).normal
x, w = draw(size=(8 * 11, 3)).astype(np.float32), draw(size=(2, 3, 5)).astype(np.float32)
sizes = np.array([[3, 5], [0, 11], [0, 0], [11, 0], [1, 1], [4, 7], [2, 0], [10, 1]], np.int32)

def loss(x, w, sizes, **told):
    return jax.numpy.sum(jax.numpy.sin(grouped_matmul(x, w, sizes.reshape(2), **told)))

def local(x, w, sizes):
    told = {"implementation": "pallas_tpu", "interpret": True}
    dx, dw = jax.grad(loss, (0, 1))(x, jax.lax.pcast(w, "data", to="varying"), sizes, **told)
    return dx, jax.lax.psum(dw, "data")

where = {"in_specs": (P("data"), P(), P("data")), "out_specs": (P("data"), P()), "check_vma": CHECK}
dx, dw = jax.jit(jax.shard_map(local, mesh=mesh, **where))(x, w, sizes)
alone = [jax.grad(loss, (0, 1))(a, w, s, implementation="reference") for a, s in zip(np.split(x, 8), sizes)]
np.testing.assert_allclose(dx, np.concatenate([a for a, _ in alone]), rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(dw, sum(b for _, b in alone), rtol=1e-5, atol=1e-5)
"""


@pytest.mark.slow
def test_inside_shard_map():
    # The interpreter's own loops are not typed by mesh axis; on a TPU the check is on, as level (d) compiles it.
    output_of("-c", SHARDED.replace("CHECK", "False").replace('jax.lax.pcast(w, "data", to="varying")', "w"))


def test_work_items_by_hand():
    # Tiles of 4 rows; rows 0..2 of group 0, none of 1, rows 3..8 of group 2, rows 9..11 of nobody.
    items = work_items.product_items(jnp.array([3, 0, 6], jnp.int32), 12, 4)
    assert items.counts.tolist() == [4, 5]
    assert items.group.tolist() == [0, 2, 2, 2, 2, 2]
    assert items.tile.tolist() == [0, 0, 1, 2, 2, 2]
    assert items.read.tolist() == [0, 0, 1, 2, 2, 2]
    assert items.start.tolist() == [0, 3, 3, 3, 9, 9]
    assert items.end.tolist() == [3, 9, 9, 9, 12, 12]
    items = work_items.outer_items(jnp.array([3, 0, 6], jnp.int32), 12, 4)
    assert items.counts.tolist() == [5, 5]
    assert items.group.tolist() == [0, 1, 2, 2, 2]
    assert items.tile.tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("maker, extra", [(work_items.product_items, 0), (work_items.outer_items, -1)])
def test_work_items_cover_every_row_once(maker, extra):
    rows, groups = 150, 6
    make = jax.jit(lambda sizes: maker(sizes, rows, 8))
    for seed in range(60):
        r = np.random.default_rng(seed)
        sizes = r.integers(0, 25, groups) * r.integers(0, 2, groups)
        sizes[0] += (rows - sizes.sum()) * r.integers(0, 2)  # half of the time no row is left over
        items = [np.asarray(a) for a in make(jnp.asarray(sizes, jnp.int32))]
        counts, group, _, tile, start, end = items
        assert len(group) == -(-rows // 8) + groups + extra
        owners = np.full(rows, -1)
        for i in range(counts[1]):
            mine = np.arange(max(start[i], tile[i] * 8), min(end[i], tile[i] * 8 + 8))
            assert (owners[mine] == -1).all()
            owners[mine] = group[i] if i < counts[0] else groups
        expected = np.repeat(np.arange(groups + 1), [*sizes, rows - sizes.sum()])
        np.testing.assert_array_equal(owners, np.where(expected == groups, -1, expected) if extra else expected)


def test_no_rows():
    y = api.grouped_matmul(jnp.zeros((0, 3)), jnp.ones((2, 3, 4)), jnp.zeros(2, jnp.int32), **TPU)
    assert y.shape == (0, 4)
    dw = api.grouped_outer(jnp.zeros((0, 3)), jnp.ones((0, 4)), jnp.zeros(2, jnp.int32), **TPU)
    assert dw.shape == (2, 3, 4)
    assert not np.any(dw)


@pytest.mark.parametrize(
    "tiling, message",
    [
        ((8, 128), r"three positive sizes: \(rows, depth, columns\)"),
        ((8, 0, 128), "three positive sizes"),
        ((8, 100, 128), r"depth=100 is not a multiple of 128 \(float32\); take 128"),
        ((12, 128, 128), "rows=12 is not a multiple of 8 .* take 16"),
    ],
)
def test_tilings_that_break_register_tiles_are_refused(tiling, message):
    with pytest.raises(ValueError, match=message):
        api.grouped_matmul(
            jnp.ones((64, 256)), jnp.ones((2, 256, 256)), jnp.array([3, 4], jnp.int32), tiling=tiling, **TPU
        )


def test_a_tiling_beyond_vector_memory_is_refused_with_one_that_fits():
    shapes = (jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16), jax.ShapeDtypeStruct((2, 8192, 8192), jnp.bfloat16))

    def run(tiling):
        return lambda x, w: api.grouped_matmul(x, w, jnp.array([8000, 1], jnp.int32), tiling=tiling, **TPU)

    with pytest.raises(ValueError, match=r"needs .* MiB .* v5e gives a kernel 126 MiB .*tiling=\(.*\) fits") as refused:
        jax.eval_shape(run((2048, 8192, 8192)), *shapes)
    fitting = str(refused.value).split("tiling=(")[-1].split(")")[0]
    jax.eval_shape(run(tuple(int(n) for n in fitting.split(","))), *shapes)


@pytest.mark.parametrize("generation", ["v4", "v5e", "v5p", "v6e"])
def test_default_tiles_fit_every_generation(generation, monkeypatch):
    held = tpu_memory.chips()[generation]
    monkeypatch.setattr(tpu_memory, "chip", lambda target: held)
    for op, dtype in itertools.product(("product", "gated_product", "sum_of_outer"), (jnp.bfloat16, jnp.float32)):
        for sizes in (
            (8192, 4096, 14336, 8),
            (8192, 14336, 4096, 8),
            (8192, 2048, 1408, 64),
            (3, 7, 5, 2),
            (70000, 99999, 3, 1),
        ):
            tiles = pallas_tpu_tiles.choose(op, sizes, (dtype, dtype), None, kernels=2 if op == "gated_product" else 1)
            assert tiles.vmem <= held.limit_bytes
            assert tiles.rows % tiles.body_rows == 0
            assert tiles.rows % tpu_memory.sublanes(dtype) == 0
            for tile, size in ((tiles.depth, sizes[1]), (tiles.columns, sizes[2])):
                assert tile == size or (tile < size and tile % 128 == 0)


def test_generations_are_known_by_device_kind():
    kinds = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "unheard of": "v5e"}
    for kind, name in kinds.items():
        assert tpu_memory.chip(Target(platform="tpu", kind=kind)).name == name
