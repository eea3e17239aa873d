"""The Hopper kernels in the Mosaic GPU interpreter: values and gradients against loops, and no races."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moejax_kernels import _compat
from moejax_kernels.activations import ACTIVATIONS
from moejax_kernels.grouped_matmul import pallas_gpu, pallas_gpu_outer
from moejax_kernels.grouped_matmul.api import grouped_gated_matmul, grouped_matmul, grouped_outer
from moejax_kernels.hopper import limits, row_tiles
from moejax_kernels.hopper.epilogue import activate_in_kernel

from tests.kernels.numpy_oracle import gated, outer, product

pytestmark = pytest.mark.slow

SMALL = {"implementation": "pallas_gpu", "interpret": True, "tiling": (64, 64, 64, 2, 2)}
EXACT = {**SMALL, "preferred_element_type": jnp.float32}  # products of bfloat16 summed and stored in float32


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape) * 0.5, jnp.bfloat16) for shape in shapes]


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max()))


def after_last(x, sizes, value):
    return x.at[sum(sizes) :].set(value)


@pytest.mark.parametrize(
    ("rows", "depth", "width", "sizes"),
    [
        (1, 8, 8, (1,)),
        (37, 24, 40, (5, 0, 20)),
        (150, 72, 136, (70, 0, 3, 60)),
        (64, 64, 64, (64,)),
        (9, 80, 16, (0, 0)),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_product_equals_loops(rows, depth, width, sizes, transposed):
    x, w, dy = arrays(
        0, (rows, depth), (len(sizes), *((width, depth) if transposed else (depth, width))), (rows, width)
    )
    got = grouped_matmul(after_last(x, sizes, jnp.nan), w, jnp.array(sizes, jnp.int32), transposed=transposed, **EXACT)
    close(got, product(x, w, None, sizes, dy, transposed=transposed)[0])
    assert not np.asarray(got)[sum(sizes) :].any()


def test_bias_and_activation_are_applied_to_float32_sums():
    sizes = (30, 0, 20)
    x, w, bias, dy = arrays(1, (60, 40), (3, 40, 72), (3, 72), (60, 72))
    for activation in (None, "gelu_exact"):
        got = grouped_matmul(x, w, jnp.array(sizes, jnp.int32), bias=bias, activation=activation, **EXACT)
        close(got, product(x, w, bias, sizes, dy, activation=activation)[0])


def test_gated_product_equals_loops():
    sizes = (30, 0, 20)
    x, gate, up, dy = arrays(2, (60, 40), (3, 40, 72), (3, 40, 72), (60, 72))
    got = grouped_gated_matmul(after_last(x, sizes, jnp.nan), gate, up, jnp.array(sizes, jnp.int32), **EXACT)
    close(got, gated(x, gate, up, sizes, dy)[0])


@pytest.mark.parametrize(
    ("rows", "depth", "width", "sizes"), [(1, 8, 8, (1,)), (150, 72, 136, (70, 0, 3, 60)), (9, 16, 16, (0, 0))]
)
def test_sum_of_outer_equals_loops(rows, depth, width, sizes):
    x, y = arrays(3, (rows, depth), (rows, width))
    lost = (after_last(array, sizes, jnp.nan) for array in (x, y))
    got = np.asarray(grouped_outer(*lost, jnp.array(sizes, jnp.int32), **EXACT))
    close(got, outer(x, y, sizes))
    for group, size in enumerate(sizes):
        assert size or not got[group].any()


def test_not_a_number_in_a_group_stays_in_it():
    x, y = arrays(4, (40, 16), (40, 16))
    sizes = jnp.array([13, 14, 13], jnp.int32)
    clean = np.asarray(grouped_outer(x, y, sizes, **EXACT))
    got = np.asarray(grouped_outer(x.at[13:27].set(jnp.nan), y, sizes, **EXACT))
    np.testing.assert_array_equal(got[[0, 2]], clean[[0, 2]])
    assert np.isnan(got[1]).all()


@pytest.mark.slow
def test_every_pattern_of_empty_groups_in_value_and_gradients():
    """2^5 patterns as a batch of one call; bfloat16 outputs, so within its rounding (2^-8)."""
    x, w, bias, dy = arrays(5, (24, 16), (5, 16, 24), (5, 24), (24, 24))
    patterns = [tuple(n * p for n, p in zip((5, 1, 8, 2, 3), keep)) for keep in itertools.product((0, 1), repeat=5)]

    def value_and_gradients(x, dy, sizes):
        def f(x, w, bias):
            return grouped_matmul(x, w, sizes, bias=bias, activation="silu", **SMALL)

        y, pull = jax.vjp(f, x, w, bias)
        return y, *pull(dy)

    spoilt = [jnp.stack([after_last(array, sizes, jnp.nan) for sizes in patterns]) for array in (x, dy)]
    batch = jax.jit(jax.vmap(value_and_gradients))(*spoilt, jnp.array(patterns, jnp.int32))
    for sizes, *got in zip(patterns, *batch, strict=True):
        for found, wanted in zip(got, product(x, w, bias, sizes, dy, activation="silu"), strict=True):
            close(found, wanted, 2e-2)
        for group, size in enumerate(sizes):
            assert size or not np.asarray(got[2][group], np.float32).any()


@pytest.mark.slow
def test_gradients_of_the_gated_product_equal_loops():
    sizes = (10, 0, 12)
    x, gate, up, dy = arrays(6, (24, 16), (3, 16, 24), (3, 16, 24), (24, 24))
    y, pull = jax.vjp(lambda *a: grouped_gated_matmul(*a, jnp.array(sizes, jnp.int32), **SMALL), x, gate, up)
    for found, wanted in zip((y, *pull(dy)), gated(x, gate, up, sizes, dy), strict=True):
        close(found, wanted, 3e-2)


def test_under_jit_vmap_scan_and_remat():
    x, w = arrays(7, (2, 16, 16), (2, 16, 16))
    sizes = jnp.array([[9, 4], [0, 16]], jnp.int32)

    def one(x, sizes):
        return grouped_matmul(x, w, sizes, **SMALL)

    want = np.stack([product(x[i], w, None, tuple(np.asarray(sizes[i])), x[i])[0] for i in range(2)])
    close(jax.jit(jax.vmap(one))(x, sizes), want, 2e-2)
    close(jax.lax.scan(lambda _, row: (None, jax.checkpoint(one)(*row)), None, (x, sizes))[1], want, 2e-2)


@pytest.mark.parametrize("op", ["product", "sum_of_outer"])
def test_no_races(op, capfd):
    x, w, y = arrays(8, (70, 72), (2, 72, 64), (70, 64))
    sizes = jnp.array([30, 33], jnp.int32)
    checked = {**EXACT, "interpret": _compat.gpu_interpreter_params()(detect_races=True)}
    if op == "product":
        close(grouped_matmul(x, w, sizes, **checked), product(x, w, None, (30, 33), y)[0])
    else:
        close(grouped_outer(x, y, sizes, **checked), outer(x, y, (30, 33)))
    told = capfd.readouterr()
    assert "RACE" not in told.out + told.err


@given(st.lists(st.integers(0, 100), min_size=5, max_size=5), st.sampled_from([64, 128]))
@settings(max_examples=60, deadline=None)
def test_tiles_write_every_row_once_and_within_its_group(sizes, tile):
    rows = 500
    tiles = jax.jit(row_tiles.row_tiles, static_argnums=(1, 2))(jnp.array(sizes, jnp.int32), rows, tile)
    written = np.full(rows, -1)
    for group, place, skip, count in np.asarray(tiles).T:
        first = place * 8 + skip
        assert count == 0 or (skip + count <= tile and (written[first : first + count] == -1).all())
        written[first : first + count] = group
    np.testing.assert_array_equal(written, np.repeat(np.arange(6), [*sizes, rows - sum(sizes)]))


def test_bands_visit_every_tile_once():
    rows, columns, band = 5, 11, 4
    seen = {tuple(int(i) for i in row_tiles.banded(jnp.int32(b), rows, columns, band)) for b in range(rows * columns)}
    assert seen == set(itertools.product(range(rows), range(columns)))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_of_kernels_equal_those_of_the_table(name):
    x = jnp.linspace(-9, 9, 4001, dtype=jnp.float32)
    np.testing.assert_allclose(activate_in_kernel(x, name), ACTIVATIONS[name](x), atol=1e-6)


def test_float32_is_refused_with_the_way_out():
    x, w = jnp.ones((8, 8), jnp.float32), jnp.ones((1, 8, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"not float32 .*cast to bfloat16, or take implementation='xla'"):
        grouped_matmul(x, w, jnp.array([8], jnp.int32), **SMALL)


@pytest.mark.parametrize("tiling", [(64, 64), (32, 64, 64), (64, 64, 100), (64, 64, 512), (64, 64, 64, 1)])
def test_a_tiling_of_no_matrix_instruction_is_refused(tiling):
    x, w = arrays(9, (8, 8), (1, 8, 8))
    with pytest.raises(ValueError, match="tiling="):
        grouped_matmul(x, w, jnp.array([8], jnp.int32), **{**SMALL, "tiling": tiling})


def test_a_tiling_beyond_shared_memory_is_refused_with_one_that_fits():
    x, w = arrays(9, (8, 8), (1, 8, 8))

    def run(tiling):
        return grouped_matmul(x, w, jnp.array([8], jnp.int32), **{**SMALL, "tiling": tiling})

    with pytest.raises(ValueError, match=r"needs 393248 bytes of shared memory and a block has 232448") as refused:
        run((64, 192, 192, 4))
    fitting = str(refused.value).split("tiling=(")[-1].split(")")[0]
    assert pallas_gpu.shared_bytes(limits.Tiling(*(int(n) for n in fitting.split(","))), 1, 2) <= limits.SHARED_BYTES
    with pytest.raises(ValueError, match=r"keeps 192 sums per thread and at most 128"):
        run((192, 64, 128, 2))


def test_tables_of_tiles_fit_a_block_twice_per_multiprocessor():
    for entries in limits._table().values():
        for op in ("product", "gated_product", "sum_of_outer"):
            for _, *sizes in entries[op]:
                tile, kernels = limits.Tiling(*sizes), 2 if op == "gated_product" else 1
                model = pallas_gpu_outer.shared_bytes if op == "sum_of_outer" else None
                needed = model(tile, 2) if model else pallas_gpu.shared_bytes(tile, kernels, 2)
                assert 2 * (needed + 1024) <= 233472
                across = tile.depth if op == "sum_of_outer" else tile.rows
                assert across * tile.columns * kernels <= limits.ACCUMULATORS * limits.THREADS


def test_no_rows_need_no_kernel():
    x, w, y = arrays(10, (0, 8), (2, 8, 16), (0, 16))
    sizes = jnp.zeros(2, jnp.int32)
    assert grouped_matmul(x, w, sizes, **SMALL).shape == (0, 16)
    assert not np.asarray(grouped_outer(x, y, sizes, **EXACT)).any()
