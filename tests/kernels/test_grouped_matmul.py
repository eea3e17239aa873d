"""The grouped product: every implementation equals the reference for all patterns of groups, in value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moejax_kernels.grouped_matmul import grouped_matmul

from tests.child_programs import output_of

# Those that run on a CPU as they are; Pallas kernels have files of their own.
IMPLEMENTATIONS = ("reference", "xla")
OTHERS = ("xla",)
PATTERNS = {
    "even": (41, [10, 10, 11, 10]),
    "first empty": (41, [0, 20, 20, 1]),
    "last empty": (41, [40, 1, 0, 0]),
    "inner empty": (41, [3, 0, 0, 38]),
    "one has all": (41, [0, 41, 0, 0]),
    "rows left over": (41, [5, 0, 17, 2]),
    "all empty": (41, [0, 0, 0, 0]),
    "long groups": (1200, [600, 17, 64, 305]),
    "one long group": (1200, [0, 1100, 0, 0]),
}


def operands(rows, dtype=jnp.float32, groups=4, inputs=5, outputs=3):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(rows, inputs)), dtype)
    return x, jnp.asarray(draw.normal(size=(groups, inputs, outputs)), dtype)


def value_and_gradients(implementation, x, w, sizes, **options):
    y, pullback = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes, implementation=implementation, **options), x, w)
    return y, *pullback(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


@functools.cache
def compiled(implementation):
    return jax.jit(functools.partial(value_and_gradients, implementation))


@pytest.mark.parametrize("implementation", OTHERS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equals_reference(implementation, pattern):
    rows, sizes = PATTERNS[pattern]
    x, w = operands(rows)
    found = compiled(implementation)(x, w, jnp.array(sizes))
    for a, b in zip(found, compiled("reference")(x, w, jnp.array(sizes)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4 if rows > 100 else 1e-5)
    y, dx, dw = found
    assert not np.any(y[sum(sizes) :])
    assert not np.any(dx[sum(sizes) :])
    for group, size in enumerate(sizes):
        assert np.any(dw[group]) == (size > 0)


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
def test_by_hand(implementation):
    x = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    w = jnp.array([[[1.0], [1.0]], [[9.0], [9.0]], [[1.0], [-1.0]]])
    # Rows 0 and 1 by w[0] (1 + 2 = 3, 3 + 4 = 7), none by w[1], row 2 by w[2] (5 - 6 = -1), row 3 by nobody.
    y, dx, dw = value_and_gradients(implementation, x, w, jnp.array([2, 0, 1]))
    np.testing.assert_allclose(y, [[3], [7], [-1], [0]])
    # The pulled-back cotangent is sin(0), sin(1), sin(2), sin(3).
    a, b = np.sin(1), np.sin(2)
    np.testing.assert_allclose(dx, [[0, 0], [a, a], [b, -b], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(dw[:, :, 0], [[3 * a, 4 * a], [0, 0], [5 * b, 6 * b]], rtol=1e-6)


@pytest.mark.parametrize("implementation", OTHERS)
def test_values_of_other_rows_never_leak(implementation):
    # A row of NaN belongs to the second group, another to nobody: the first group stays clean in value and gradients.
    x, w = operands(41)
    x = x.at[20].set(jnp.nan).at[40].set(jnp.nan)
    y, dx, dw = compiled(implementation)(x, w, jnp.array([20, 15, 0, 0]))
    assert np.isfinite(y[:20]).all()
    assert np.isnan(y[20]).all()
    assert not np.any(y[35:])
    assert np.isfinite(dx).all()
    assert np.isfinite(dw[0]).all()
    assert not np.any(dw[2:])


@pytest.mark.parametrize("implementation", OTHERS)
def test_bfloat16(implementation):
    x, w = operands(41, jnp.bfloat16)
    sizes = jnp.array([0, 30, 4, 5])
    found = compiled(implementation)(x, w, sizes)
    assert {a.dtype for a in found} == {jnp.dtype(jnp.bfloat16)}
    exact = compiled("reference")(x.astype(jnp.float32), w.astype(jnp.float32), sizes)
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-7, atol=2**-5)
    y, dx, dw = value_and_gradients(implementation, x, w, sizes, preferred_element_type=jnp.float32)
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(y, exact[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", OTHERS)
def test_under_transformations(implementation):
    x, w = operands(41)
    sizes = jnp.array([[10, 0, 20, 3], [0, 41, 0, 0], [7, 8, 9, 10]])
    product = functools.partial(grouped_matmul, implementation=implementation)

    def loss(x, w, sizes):
        return jnp.sum(jnp.sin(product(x, w, sizes)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    alone = [gradient(x * (i + 1), w, size) for i, size in enumerate(sizes)]
    batch = jnp.stack([x * (i + 1) for i in range(3)])
    batched = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None, 0)))(batch, w, sizes)
    _, scanned = jax.jit(
        lambda batch, w: jax.lax.scan(
            lambda c, a: (c, jax.grad(jax.checkpoint(loss), argnums=(0, 1))(a[0], w, a[1])), None, (batch, sizes)
        )
    )(batch, w)
    for i in range(3):
        for j in range(2):
            np.testing.assert_allclose(batched[j][i], alone[i][j], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(scanned[j][i], alone[i][j], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", OTHERS)
def test_second_derivatives(implementation):
    x, w = operands(20)
    sizes = jnp.array([8, 0, 9, 1])

    def penalty(name, x, w):
        def loss(x, w):
            return jnp.sum(jnp.sin(grouped_matmul(x, w, sizes, implementation=name)))

        dx, dw = jax.grad(loss, argnums=(0, 1))(x, w)
        return jnp.sum(dx**2) + jnp.sum(dw**2)

    found, exact = (
        jax.jit(jax.grad(functools.partial(penalty, n), (0, 1)))(x, w) for n in (implementation, "reference")
    )
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_traced_sizes_beyond_the_rows_are_cut():
    x, w = operands(6)
    for implementation in IMPLEMENTATIONS:
        product = jax.jit(functools.partial(grouped_matmul, implementation=implementation))
        y = product(x, w, jnp.array([4, 9, 9, 9]))
        np.testing.assert_allclose(y, jnp.concatenate([x[:4] @ w[0], x[4:] @ w[1]]), rtol=1e-5, atol=1e-6)
        y = product(x, w, jnp.array([2, -3, 4, 0]))  # a negative size counts as 0
        np.testing.assert_allclose(y, jnp.concatenate([x[:2] @ w[0], x[2:] @ w[2]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", [None, *OTHERS])
def test_work_does_not_grow_with_the_groups(implementation):
    # Multiply-adds in the compiled program: one loop body, whatever the number of groups; the reference pays for each.
    def flops(groups, implementation):
        x, w = operands(64, groups=groups, inputs=16, outputs=16)
        program = jax.jit(functools.partial(grouped_matmul, implementation=implementation))
        return program.lower(x, w, jnp.full((groups,), 64 // groups)).compile().cost_analysis()["flops"]

    assert flops(32, implementation) < 1.5 * flops(2, implementation)
    assert flops(32, "reference") > 8 * flops(2, "reference")


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from moejax_kernels.grouped_matmul import grouped_gated_matmul, grouped_matmul, grouped_outer

mesh = jax.make_mesh((4, 2), ("data", "expert"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
draw = lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
x, sizes = draw(0, 4, 2, 24, 6), jnp.array(np.random.default_rng(1).integers(0, 7, (4, 4)), jnp.int32)
w, bias, gate, up = draw(2, 4, 6, 3), draw(3, 4, 3), draw(4, 4, 6, 5), draw(5, 4, 6, 5)

def local(x, w, bias, gate, up, sizes):
    y = grouped_matmul(x, w, sizes, bias=bias, activation="gelu")
    z = grouped_gated_matmul(x, gate, up, sizes)
    return jnp.sum(jnp.sin(y)) + jnp.sum(z**2) + jnp.sum(grouped_outer(y, z, sizes) ** 2)

# Rows and experts are spread over eight devices; each expert's weights are the same for the four of its column.
@jax.shard_map(mesh=mesh, in_specs=(P("data", "expert"), P("expert"), P("data", "expert")), out_specs=P())
def sharded(x, weights, sizes):
    return jax.lax.psum(local(x[0, 0], *weights, sizes[0]), ("data", "expert"))

def whole(x, weights, sizes):
    total = 0.0
    for i in range(4):
        for j in range(2):
            half = (a[2 * j : 2 * j + 2] for a in weights)
            total = total + local(x[i, j], *half, sizes[i, 2 * j : 2 * j + 2])
    return total

found, wanted = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(x, (w, bias, gate, up), sizes) for f in (sharded, whole)
)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), found, wanted)
print("eight devices agree")
"""


@pytest.mark.slow
def test_inside_shard_map_on_eight_devices():
    assert "eight devices agree" in output_of("-c", SHARDED)
