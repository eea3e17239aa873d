"""Grouped products against NumPy loops in float64: every pattern of empty groups, drawn sizes, epilogues, gated pairs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moejax_kernels import platforms
from moejax_kernels.grouped_matmul import grouped_gated_matmul, grouped_matmul, grouped_outer

from tests.kernels import numpy_oracle as oracle

IMPLEMENTATIONS = ("reference", "xla")
PATTERNS = [np.array(p) * [7, 3, 11, 1, 19] for p in itertools.product((0, 1), repeat=5)]
ROWS, D, F = 45, 5, 3


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def close(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=tolerance, atol=tolerance)


@functools.cache
def program(implementation, transposed, activation, with_bias):
    def run(x, w, bias, sizes, dy):
        def f(x, w, bias):
            return grouped_matmul(
                x, w, sizes, bias=bias, transposed=transposed, activation=activation, implementation=implementation
            )

        y, pullback = jax.vjp(f, x, w, bias if with_bias else None)
        return y, *(g for g in pullback(dy) if g is not None)

    return jax.jit(run)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "transposed, activation, with_bias",
    [(False, None, False), (True, None, False), (False, "gelu", True), (True, "silu", True), (False, "relu", False)],
)
def test_every_pattern_of_empty_groups(implementation, transposed, activation, with_bias):
    x, dy = draw(ROWS, D), draw(ROWS, F, seed=1)
    w, bias = draw(5, *((F, D) if transposed else (D, F)), seed=2), draw(5, F, seed=3)
    x[41:], dy[41:] = np.nan, np.nan  # never in a group: at most 41 rows are
    for sizes in PATTERNS:
        left = np.where(
            np.arange(ROWS)[:, None] < sizes.sum(), 1, np.nan
        )  # what follows the last group reaches nothing
        found = program(implementation, transposed, activation, with_bias)(
            x * left, w, bias, jnp.asarray(sizes), dy * left
        )
        expected = oracle.product(
            x, w, bias if with_bias else None, sizes, dy, transposed=transposed, activation=activation
        )
        close(found, expected, 1e-5 if activation is None else 5e-5)  # tanh of float32 cancels
        assert not np.any(found[0][sizes.sum() :])
        for e in np.flatnonzero(sizes == 0):
            assert not any(np.any(g[e]) for g in found[2:])


@functools.cache
def gated_program(implementation):
    def run(x, gate, up, sizes, dy):
        y, pullback = jax.vjp(lambda *a: grouped_gated_matmul(*a, sizes, implementation=implementation), x, gate, up)
        return y, *pullback(dy), grouped_outer(x, dy, sizes, implementation=implementation)

    return jax.jit(run)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gated_pair_and_outer_for_every_pattern(implementation):
    x, gate, up, dy = draw(ROWS, D), draw(5, D, F, seed=1), draw(5, D, F, seed=2), draw(ROWS, F, seed=3)
    for sizes in PATTERNS:
        found = gated_program(implementation)(x, gate, up, jnp.asarray(sizes), dy)
        close(found, (*oracle.gated(x, gate, up, sizes, dy), oracle.outer(x, dy, sizes)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=3, max_size=3), st.integers(0, 100))
def test_drawn_sizes(sizes, left_over):
    rows = 2200  # one compiled program: the rows of no group make up the difference
    x, w, dy = draw(rows, 3), draw(3, 3, 2, seed=1), draw(rows, 2, seed=2)
    sizes = np.array(sizes)
    found = program("xla", False, None, False)(x, w, None, jnp.asarray(sizes), dy)
    close(found, oracle.product(x, w, None, sizes, dy), 2e-4)
    np.testing.assert_allclose(found[0][sizes.sum() :], 0)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 3, 2, 2), (17, 1, 5, 2), (33, 130, 1, 7), (300, 2, 9, 1)])
def test_shapes_that_no_block_divides(shape):
    rows, inputs, outputs, groups = shape
    x, w, dy = draw(rows, inputs), draw(groups, inputs, outputs, seed=1), draw(rows, outputs, seed=2)
    sizes = np.full(groups, rows // groups)
    close(
        program("xla", False, None, False)(x, w, None, jnp.asarray(sizes), dy),
        oracle.product(x, w, None, sizes, dy),
        1e-4,
    )


def test_tiling_is_a_choice_of_blocks():
    x, w = jnp.asarray(draw(100, 4)), jnp.asarray(draw(3, 4, 2, seed=1))
    sizes = jnp.array([50, 3, 40])
    for tiling in ((32, 8), (1,), (64, 16, 4)):
        y = grouped_matmul(x, w, sizes, implementation="xla", tiling=tiling)
        close([y], [oracle.product(x, w, None, [50, 3, 40], np.zeros((100, 2)))[0]])


def unchecked(*args, **kwargs):
    """A call as users make it, without the annotations that tests check first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return grouped_matmul(*args, **kwargs)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


X, W = np.ones((6, 4), np.float32), np.ones((3, 4, 2), np.float32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sizes": [3, 3, 1]}, "sum to 7, more than the 6 rows"),
        ({"sizes": [3, -2, 1]}, r"group_sizes\[1\]=-2 is negative"),
        ({"sizes": [3, 3]}, r"must be \(3,\)"),
        ({"sizes": np.array([1.0, 2.0, 3.0], np.float32)}, "counted in integers"),
        ({"x": np.ones((6, 5), np.float32)}, "D=5, but w .* has D=4"),
        ({"x": np.ones((6, 4), np.int32)}, "x has dtype int32"),
        ({"x": jnp.ones((6, 4), jnp.bfloat16)}, "different dtypes"),
        ({"activation": "glu"}, "activation='glu' is not one of"),
        ({"implementation": "pallas_tpus"}, "Did you mean 'pallas_tpu'"),
        ({"implementation": "pallas_tpu"}, "runs on tpu only, and this program is traced for cpu .*interpret=True"),
        ({"bias": np.ones((3, 4), np.float32)}, r"it must be \(E, F\) = \(3, 2\)"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"x": X, "w": W, "sizes": [1, 2, 3]} | change
    x, w, sizes = (jnp.asarray(arguments.pop(name)) for name in ("x", "w", "sizes"))
    if "bias" in arguments:
        arguments["bias"] = jnp.asarray(arguments["bias"])
    with pytest.raises(ValueError, match=message):
        unchecked(x, w, sizes, **arguments)


def test_what_none_picks():
    def picked(platform, kind, dtype, known=("xla", "pallas_tpu", "pallas_gpu")):
        device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
        axis = (jax.sharding.AxisType.Auto,)
        mesh = jax.sharding.AbstractMesh((1,), ("x",), axis_types=axis, abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            return platforms.choose_implementation(None, known, dtype)

    assert platforms.choose_implementation(None, ("xla",), jnp.float32) == "xla"  # this process: a CPU
    assert picked("tpu", "TPU v5 lite", jnp.float32) == "pallas_tpu"
    assert picked("cuda", "NVIDIA H100 80GB HBM3", jnp.bfloat16) == "pallas_gpu"
    # No kernel of ours for these: float32 on Hopper, older and newer chips, an operation without a Hopper kernel.
    assert picked("cuda", "NVIDIA H100 80GB HBM3", jnp.float32) == "xla"
    assert picked("cuda", "NVIDIA A100-SXM4-40GB", jnp.bfloat16) == "xla"
    assert picked("cuda", "NVIDIA B200", jnp.bfloat16) == "xla"
    assert picked("cuda", "NVIDIA H100 80GB HBM3", jnp.bfloat16, ("xla", "pallas_tpu")) == "xla"
