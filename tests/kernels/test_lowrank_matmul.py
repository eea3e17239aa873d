"""Low-rank products: every implementation equals loops in NumPy for all patterns of empty groups, in value and gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moejax_kernels.lowrank_matmul import (
    grouped_lowrank_ffn,
    grouped_lowrank_matmul,
    lowrank_attention,
    lowrank_ffn,
    lowrank_matmul,
)

from tests.child_programs import output_of

# Those that run on a CPU as they are; Pallas kernels have files of their own.
IMPLEMENTATIONS = ("reference", "xla")
M, D, R, F, S, O, E = 41, 6, 3, 7, 2, 5, 4
PATTERNS = list(itertools.product((0, 1), repeat=E))


def draw_sizes(pattern, rows=M, seed=0):
    """Sizes of the groups that are not empty, with some rows left over for every second pattern."""
    draw = np.random.default_rng(seed + sum(2**e * bit for e, bit in enumerate(pattern)))
    if not any(pattern):
        return np.zeros(len(pattern), int)
    shares = np.array(pattern) * (0.05 + draw.random(len(pattern)))
    sizes = np.maximum(np.floor(shares / shares.sum() * rows), pattern).astype(int)
    sizes[np.argmax(sizes)] += rows - sizes.sum()
    if sum(pattern) % 2:
        sizes[np.argmax(sizes)] -= 5
    return sizes


def draw_factors(seed, *shape, dtype=jnp.float32):
    *lead, depth, rank, width = shape
    draw = np.random.default_rng(seed)
    u = draw.normal(size=(*lead, depth, rank)) / np.sqrt(depth)
    v = draw.normal(size=(*lead, rank, width)) / np.sqrt(rank)
    return jnp.asarray(u, dtype), jnp.asarray(v, dtype)


def draw_rows(seed, rows, width, sizes, dtype=jnp.float32):
    """Normal rows, NaN after the last group."""
    x = np.random.default_rng(seed).normal(size=(rows, width))
    x[int(np.sum(sizes)) :] = np.nan
    return jnp.asarray(x, dtype)


def silu(x):
    return x / (1 + np.exp(-x))


def silu_slope(x):
    gate = 1 / (1 + np.exp(-x))
    return gate * (1 + x * (1 - gate))


def loops(x, up, gate, down, sizes, dy):
    """Value and every gradient by hand, one group at a time in float64; `down` None: the plain product."""
    x, dy, up, gate, down = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, dy, up, gate, down))
    y, dx = np.zeros(dy.shape), np.zeros(x.shape)
    grads = jax.tree.map(np.zeros_like, (up, gate, down))
    first = 0
    for e, size in enumerate(sizes):
        rows = slice(first, first + size)
        first += size
        a, b = x[rows], dy[rows]
        value = a @ up[0][e] @ up[1][e]
        if down is None:
            y[rows], d_value = value, b
        else:
            gated = value if gate is None else a @ gate[0][e] @ gate[1][e]
            hidden = silu(gated) * (1 if gate is None else value)
            y[rows] = hidden @ down[0][e] @ down[1][e]
            d_hidden = b @ down[1][e].T @ down[0][e].T
            grads[2][0][e], grads[2][1][e] = hidden.T @ b @ down[1][e].T, (hidden @ down[0][e]).T @ b
            d_gated = d_hidden * silu_slope(gated) * (1 if gate is None else value)
            d_value = d_gated if gate is None else d_hidden * silu(gated)
            if gate is not None:
                dx[rows] += d_gated @ gate[1][e].T @ gate[0][e].T
                grads[1][0][e], grads[1][1][e] = a.T @ d_gated @ gate[1][e].T, (a @ gate[0][e]).T @ d_gated
        dx[rows] += d_value @ up[1][e].T @ up[0][e].T
        grads[0][0][e], grads[0][1][e] = a.T @ d_value @ up[1][e].T, (a @ up[0][e]).T @ d_value
    return y, dx, *grads


@functools.partial(jax.jit, static_argnames="implementation")
def value_and_gradients(x, up, gate, down, sizes, dy, ranks=(None, None, None), *, implementation):
    def compute(x, up, gate, down):
        if down is None:
            return grouped_lowrank_matmul(x, *up, sizes, ranks=ranks[0], implementation=implementation)
        named = dict(zip(("up_ranks", "gate_ranks", "down_ranks"), ranks, strict=True))
        return grouped_lowrank_ffn(
            x, up, down, sizes, gate=gate, activation="silu", implementation=implementation, **named
        )

    y, pull = jax.vjp(compute, x, up, gate, down)
    return y, *pull(dy)


def operands(kind, sizes, dtype=jnp.float32, rows=M):
    """x, up, gate, down and the cotangent for one of 'product', 'ffn', 'gated'."""
    x = draw_rows(1, rows, D, sizes, dtype)
    up = draw_factors(2, E, D, R, F, dtype=dtype)
    gate = draw_factors(3, E, D, R + 1, F, dtype=dtype) if kind == "gated" else None
    down = None if kind == "product" else draw_factors(4, E, F, S, O, dtype=dtype)
    return x, up, gate, down, draw_rows(5, rows, F if kind == "product" else O, sizes, dtype)


def assert_close(found, wanted, tolerance=2e-5):
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["product", "ffn", "gated"])
def test_all_patterns_of_empty_groups(kind, implementation):
    for pattern in PATTERNS:
        sizes = draw_sizes(pattern)
        x, up, gate, down, dy = operands(kind, sizes)
        found = value_and_gradients(x, up, gate, down, jnp.array(sizes), dy, implementation=implementation)
        assert_close(found, loops(x, up, gate, down, sizes, dy))
        y, dx, *gradients = found
        assert not np.any(y[sizes.sum() :])
        assert not np.any(dx[sizes.sum() :])
        for gradient in jax.tree.leaves(gradients):
            for e, size in enumerate(sizes):
                assert np.any(gradient[e]) == (size > 0), (pattern, e)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["product", "gated"])
def test_long_groups(kind):
    for sizes in ([600, 17, 64, 305], [0, 1100, 0, 0], [1, 16, 1031, 152], [255, 257, 15, 673]):
        x, up, gate, down, dy = operands(kind, sizes, rows=1200)
        found = value_and_gradients(x, up, gate, down, jnp.array(sizes), dy, implementation="xla")
        assert_close(found, loops(x, up, gate, down, sizes, dy))


@pytest.mark.parametrize("rows", [0, 1, 17])
def test_few_rows(rows):
    sizes = np.array([0, rows // 2, 0, rows - rows // 2])
    x, up, gate, down, dy = operands("gated", sizes, rows=rows)
    found = value_and_gradients(x, up, gate, down, jnp.array(sizes), dy, implementation="xla")
    assert_close(found, loops(x, up, gate, down, sizes, dy))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["product", "gated"])
def test_what_lies_beyond_a_rank_counts_as_absent(kind, implementation):
    sizes = np.array([11, 9, 13, 5])
    x, up, gate, down, dy = operands(kind, sizes)
    pairs = (up, gate, down)
    ranks = [
        None if pair is None else np.array(r) for pair, r in zip(pairs, ([0, 3, 1, 2], [4, 0, 3, 1], [2, 1, 1, 0]))
    ]

    def fill(pair, rank, filling):
        if pair is None:
            return None
        beyond = np.arange(pair[0].shape[2]) >= rank[:, None]
        return jnp.where(beyond[:, None, :], filling, pair[0]), jnp.where(beyond[:, :, None], filling, pair[1])

    zeros, garbage = ([fill(p, r, f) for p, r in zip(pairs, ranks, strict=True)] for f in (0.0, jnp.nan))
    told = [None if rank is None else jnp.array(rank) for rank in ranks]
    found = value_and_gradients(x, *garbage, jnp.array(sizes), dy, told, implementation=implementation)
    wanted = loops(x, *zeros, sizes, dy)
    wanted = (*wanted[:2], *(fill(pair, rank, 0.0) for pair, rank in zip(wanted[2:], ranks, strict=True)))
    assert_close(found, wanted)
    for pair, rank in zip(found[2:], ranks, strict=True):
        for e in range(E) if pair is not None else ():
            assert not np.any(pair[0][e, :, rank[e] :])
            assert not np.any(pair[1][e, rank[e] :])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_within_its_rounding(implementation):
    sizes = np.array([11, 0, 20, 5])
    x, up, gate, down, dy = operands("gated", sizes, jnp.bfloat16)
    found = value_and_gradients(x, up, gate, down, jnp.array(sizes), dy, implementation=implementation)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(found))
    wanted = loops(x, up, gate, down, sizes, dy)
    assert_close(found, wanted, 4 * 2.0**-8)
    with pytest.raises(AssertionError):
        assert_close(found, wanted, 2e-5)


def test_output_dtype():
    sizes = jnp.array([11, 0, 20, 5])
    x, up, _, _, _ = operands("product", sizes, jnp.bfloat16)
    for implementation in IMPLEMENTATIONS:
        y = grouped_lowrank_matmul(x, *up, sizes, preferred_element_type=jnp.float32, implementation=implementation)
        assert y.dtype == jnp.float32


def test_dense_is_one_group():
    x = draw_rows(1, 20, D, [20])
    up, gate, down = draw_factors(2, D, R, F), draw_factors(3, D, R, F), draw_factors(4, F, S, O)
    hidden = silu(np.asarray(x @ gate[0] @ gate[1])) * np.asarray(x @ up[0] @ up[1])
    for implementation in IMPLEMENTATIONS:
        assert_close(lowrank_matmul(x, *up, implementation=implementation), x @ up[0] @ up[1])
        y = lowrank_ffn(x, up, down, gate=gate, activation="silu", implementation=implementation)
        assert_close(y, hidden @ np.asarray(down[0]) @ np.asarray(down[1]))


@pytest.mark.parametrize("activation", ["gelu", "gelu_exact", "relu", None])
def test_activations(activation):
    sizes = jnp.array([11, 0, 20, 5])
    x, up, _, down, dy = operands("ffn", sizes)

    def run(implementation):
        def compute(x, up, down):
            return grouped_lowrank_ffn(x, up, down, sizes, activation=activation, implementation=implementation)

        y, pull = jax.vjp(compute, x, up, down)
        return y, *pull(dy)

    assert_close(run("xla"), run("reference"))


def finite_operands(kind, sizes):
    return jax.tree.map(jnp.nan_to_num, operands(kind, sizes))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["product", "gated"])
def test_under_vmap_scan_and_remat(kind):
    sizes = jnp.array([[11, 9, 0, 5], [0, 0, 41, 0], [1, 2, 3, 4]])
    x, up, gate, down, dy = finite_operands(kind, np.array([41]))

    def one(scale, sizes):
        found = value_and_gradients(x * scale, up, gate, down, sizes, dy, implementation="xla")
        return jax.tree.map(jnp.sum, found)

    scales = jnp.array([1.0, 0.5, 2.0])
    wanted = [one(scale, size) for scale, size in zip(scales, sizes, strict=True)]
    wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *wanted)
    assert_close(jax.vmap(one)(scales, sizes), wanted)
    assert_close(jax.lax.scan(lambda _, xs: (None, one(*xs)), None, (scales, sizes))[1], wanted)

    def loss(x, keep):
        def layer(x):
            if kind == "product":
                return grouped_lowrank_matmul(x, *up, sizes[0], implementation="xla")
            return grouped_lowrank_ffn(x, up, down, sizes[0], gate=gate, activation="silu", implementation="xla")

        return jnp.sum((layer if keep else jax.checkpoint(layer))(x) ** 2)

    assert_close(jax.grad(loss)(x, False), jax.grad(loss)(x, True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["product", "gated"])
def test_gradients_can_be_differentiated_again(kind):
    sizes = jnp.array([11, 9, 0, 5])
    x, up, gate, down, dy = finite_operands(kind, np.array([41]))

    def curvature(implementation):
        def slope(x, up, gate, down):
            _, dx, *grads = value_and_gradients(x, up, gate, down, sizes, dy, implementation=implementation)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((dx, grads)))

        return jax.grad(slope, argnums=(0, 1, 2, 3))(x, up, gate, down)

    assert_close(curvature("xla"), curvature("reference"))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from moejax_kernels.lowrank_matmul import grouped_lowrank_ffn, grouped_lowrank_matmul, lowrank_attention
assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("data", "expert"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
draw = lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32) * 0.3
x, sizes = draw(0, 4, 2, 24, 6), jnp.array(np.random.default_rng(1).integers(0, 7, (4, 4)), jnp.int32)
up, down = (draw(2, 4, 6, 3), draw(3, 4, 3, 7)), (draw(4, 4, 7, 2), draw(5, 4, 2, 6))
ffn = lambda x, up, down, sizes: grouped_lowrank_ffn(x, up, down, sizes, activation="silu", implementation="xla")

@jax.shard_map(mesh=mesh, in_specs=(P("data", "expert"), P("expert"), P("data", "expert")), out_specs=P("data", "expert"))
def sharded(x, factors, sizes):
    return ffn(x[0, 0], *factors, sizes[0])[None, None]

@jax.shard_map(mesh=mesh, in_specs=(P("data", "expert"), P()), out_specs=P("data", "expert"))
def attend(x, pairs):
    return lowrank_attention(x[0], *pairs, num_heads=2, implementation="xla")[None]

def whole(x, factors, sizes):
    halves = [jax.tree.map(lambda a, j=j: a[2 * j: 2 * j + 2], factors) for j in range(2)]
    return jnp.stack([jnp.stack([ffn(x[i, j], *halves[j], sizes[i, 2 * j: 2 * j + 2]) for j in range(2)]) for i in range(4)])

loss = lambda f: lambda x, factors: jnp.sum(jnp.sin(f(x, factors, sizes)))
found = jax.jit(jax.value_and_grad(loss(sharded), argnums=(0, 1)))(x, (up, down))
wanted = jax.jit(jax.value_and_grad(loss(whole), argnums=(0, 1)))(x, (up, down))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)
pairs = tuple((draw(6 + i, 6, 3), draw(9 + i, 3, 8)) for i in range(3))
plain = lambda x, pairs: lowrank_attention(x.reshape(8, 24, 6), *pairs, num_heads=2, implementation="reference")
found = jax.jit(jax.value_and_grad(lambda x, p: jnp.sum(jnp.sin(attend(x, p))), argnums=(0, 1)))(x, pairs)
wanted = jax.jit(jax.value_and_grad(lambda x, p: jnp.sum(jnp.sin(plain(x, p))), argnums=(0, 1)))(x, pairs)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), found, wanted)
product = lambda x, u, v, sizes: grouped_lowrank_matmul(x, u, v, sizes, implementation="xla")
flat, counts = x.reshape(8, 24, 6), sizes.repeat(2, axis=0)
split = jax.shard_map(lambda x, u, v, s: product(x[0], u, v, s[0])[None], mesh=mesh,
    in_specs=(P(("data", "expert")), P(), P(), P(("data", "expert"))), out_specs=P(("data", "expert")))
plain = lambda x, u, v, s: jnp.stack([product(x[i], u, v, s[i]) for i in range(8)])
found, wanted = (jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a, counts))), argnums=(0, 1, 2)))(flat, *up) for f in (split, plain))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)
print("eight devices agree")
"""


@pytest.mark.slow
def test_inside_shard_map_on_eight_devices():
    assert "eight devices agree" in output_of("-c", SHARDED)


def temporary_bytes(function, *arguments):
    """Bytes of the temporaries of the compiled program, and its text."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes, compiled.as_text()


def unfused_ffn(x, up, down, sizes):
    product = functools.partial(grouped_lowrank_matmul, group_sizes=sizes, implementation="xla")
    return product(jax.nn.silu(product(x, *up)), *down)


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
def test_the_ffn_holds_no_full_width_middle(backward):
    rows, wide = 1024, 1280
    x, sizes = draw_rows(1, rows, 32, [rows]), jnp.array([400, 0, 600, 24])
    up, down = draw_factors(2, E, 32, 4, wide), draw_factors(4, E, wide, 8, 32)

    def fused(x, up, down, sizes):
        return grouped_lowrank_ffn(x, up, down, sizes, activation="silu", implementation="xla", tiling=(256, 64))

    def turned(f):
        return jax.grad(lambda *a: jnp.sum(f(*a) ** 2), argnums=(0, 1, 2)) if backward else f

    less, text = temporary_bytes(turned(fused), x, up, down, sizes)
    more, unfused_text = temporary_bytes(turned(unfused_ffn), x, up, down, sizes)
    assert less + rows * wide * 4 <= more, (less, more)
    assert f"f32[{rows},{wide}]" not in text
    assert f"f32[{rows},4]" not in text
    assert f"f32[{rows},8]" not in text
    assert f"f32[{rows},{wide}]" in unfused_text


def test_the_product_holds_no_rank_wide_middle():
    x, sizes = draw_rows(1, 1024, 32, [1024]), jnp.array([400, 0, 600, 24])
    u, v = draw_factors(2, E, 32, 5, 64)
    function = functools.partial(grouped_lowrank_matmul, implementation="xla")
    assert "f32[1024,5]" not in temporary_bytes(function, x, u, v, sizes)[1]


ATTENTION_SHAPES = {"one tile": (2, 7, {}), "many tiles": (2, 41, {"tiling": (16,)}), "one token": (1, 1, {})}


def attention_operands(batch, length, dtype=jnp.float32):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, length, D)), dtype)
    pairs = (
        draw_factors(1, D, 3, 8, dtype=dtype),
        draw_factors(2, D, 4, 8, dtype=dtype),
        draw_factors(3, D, 2, 12, dtype=dtype),
    )
    return x, pairs


def plain_attention(x, pairs, causal, num_heads=2):
    """Softmax attention written out in NumPy float64, one sequence, head and query at a time."""
    x, pairs = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, pairs))
    query, key, value = (x @ u @ v for u, v in pairs)
    out = np.zeros((*x.shape[:2], value.shape[-1]))
    for b, h, t in itertools.product(range(x.shape[0]), range(num_heads), range(x.shape[1])):
        q, k, v = (np.split(a[b], num_heads, axis=-1)[h] for a in (query, key, value))
        seen = slice(t + 1) if causal else slice(None)
        scores = k[seen] @ q[t] / np.sqrt(q.shape[-1])
        weight = np.exp(scores - scores.max())
        width = v.shape[-1]
        out[b, t, h * width : (h + 1) * width] = weight / weight.sum() @ v[seen]
    return out


def differentiable_attention(x, pairs, causal):
    query, key, value = (jnp.dot(jnp.dot(x, u), v).reshape(*x.shape[:2], 2, -1) for u, v in pairs)
    scores = jnp.einsum("BTHK,BSHK->BHTS", query, key) * query.shape[-1] ** -0.5
    if causal:
        seen = jnp.tri(x.shape[1], dtype=bool)[None, None]
        scores = jnp.where(seen, scores, -jnp.inf)
    return jnp.einsum("BHTS,BSHN->BTHN", jax.nn.softmax(scores, axis=-1), value).reshape(*x.shape[:2], -1)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", ATTENTION_SHAPES)
def test_attention(shape, causal, implementation):
    batch, length, settings = ATTENTION_SHAPES[shape]
    x, pairs = attention_operands(batch, length)

    def attend(x, pairs):
        return lowrank_attention(x, *pairs, num_heads=2, causal=causal, implementation=implementation, **settings)

    assert_close(jax.jit(attend)(x, pairs), plain_attention(x, pairs, causal))
    found, wanted = (
        jax.jit(jax.grad(lambda x, pairs, f=f: jnp.sum(jnp.sin(f(x, pairs))), argnums=(0, 1)))(x, pairs)
        for f in (attend, functools.partial(differentiable_attention, causal=causal))
    )
    assert_close(found, wanted)


def test_attention_of_large_scores():
    x, pairs = attention_operands(2, 41)
    y = lowrank_attention(x * 30, *pairs, num_heads=2, implementation="xla", tiling=(16,))
    assert_close(y, plain_attention(x * 30, pairs, False), 1e-4)


def test_attention_in_bfloat16():
    x, pairs = attention_operands(2, 41, jnp.bfloat16)
    for causal in (False, True):
        y = lowrank_attention(x, *pairs, num_heads=2, causal=causal, implementation="xla", tiling=(16,))
        assert y.dtype == jnp.bfloat16
        assert_close(y, plain_attention(x, pairs, causal), 4 * 2.0**-8)


def test_attention_under_vmap():
    x, pairs = attention_operands(3, 20)
    attend = functools.partial(lowrank_attention, num_heads=2, implementation="xla", tiling=(8,))
    found = jax.vmap(lambda x: attend(x[None], *pairs)[0])(x)
    assert_close(found, attend(x, *pairs))


@pytest.mark.parametrize("backward", [False, True])
def test_attention_holds_no_projection_and_no_scores(backward):
    batch, length, heads, width = 2, 1024, 4, 40
    x = jnp.ones((batch, length, 16))
    pairs = [draw_factors(i, 16, 3, heads * width) for i in range(3)]

    def programs(implementation):
        def attend(x, pairs):
            return lowrank_attention(x, *pairs, num_heads=heads, implementation=implementation)

        if not backward:
            return temporary_bytes(attend, x, pairs)
        return temporary_bytes(jax.grad(lambda *a: jnp.sum(attend(*a) ** 2), argnums=(0, 1)), x, pairs)

    (less, text), (more, plain_text) = programs("xla"), programs("reference")
    assert less + batch * heads * length * length * 4 <= more, (less, more)
    for shape in (f"{length},{length}]", f"{batch},{heads},{length},{width}]", f"{batch},{length},{heads},{width}]"):
        assert shape not in text
    assert f"{length},{length}]" in plain_text


def bad(**changes):
    x, up, gate, down, _ = finite_operands("gated", np.array([41]))
    settings = {"up": up, "down": down, "gate": gate, "group_sizes": jnp.array([1, 2, 3, 4]), "activation": "silu"}
    settings["implementation"] = "xla"
    settings.update(changes)
    return grouped_lowrank_ffn(settings.pop("x", x), **settings)


BAD = {
    "x must be rows": ({"up": (jnp.ones((E, D + 1, R)), jnp.ones((E, R, F)))}, r"D=7.*6 columns"),
    "ranks of u and v": ({"up": (jnp.ones((E, D, R)), jnp.ones((E, R + 1, F)))}, "has rank 3 and v .* rank 4"),
    "not a pair": ({"up": (jnp.ones((E, D, R)),)}, "pair of factors"),
    "experts": ({"up": (jnp.ones((3, D, R)), jnp.ones((3, R, F)))}, "E=4"),
    "axes": ({"up": (jnp.ones((D, R)), jnp.ones((R, F)))}, r"\[E D R\]"),
    "depth of down": ({"down": (jnp.ones((E, F + 2, S)), jnp.ones((E, S, O)))}, "down.*D=9"),
    "width of the gate": ({"gate": (jnp.ones((E, D, R)), jnp.ones((E, R, F + 1)))}, "gate is 8 wide and up 7"),
    "sizes exceed M": ({"group_sizes": jnp.array([41, 1, 0, 0])}, "sum to 42, more than the 41"),
    "negative size": ({"group_sizes": jnp.array([1, -2, 0, 0])}, r"group_sizes\[1\]=-2"),
    "rank too large": ({"up_ranks": jnp.array([1, 4, 0, 0])}, r"up_ranks\[1\]=4 is more than the 3"),
    "rank negative": ({"down_ranks": jnp.array([1, 1, -1, 0])}, r"down_ranks\[2\]=-1"),
    "number of ranks": ({"gate_ranks": jnp.array([1, 1])}, r"must be \(4,\)"),
    "ranks without a gate": ({"gate": None, "gate_ranks": jnp.array([1, 1, 1, 1])}, "gate is not"),
    "activation": ({"activation": "swish"}, "swish"),
    "implementation": ({"implementation": "xlaa"}, "Did you mean 'xla'"),
    "platform": ({"implementation": "pallas_tpu"}, "runs on tpu only"),
    "tiling": ({"tiling": (16, 0)}, "each at least 1"),
    "dtypes": ({"x": jnp.ones((41, D), jnp.bfloat16)}, "different dtypes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        bad(**changes)


def test_bad_attention():
    x, (query, key, value) = attention_operands(2, 5)
    with pytest.raises(ValueError, match="num_heads=3 does not divide"):
        lowrank_attention(x, query, key, value, num_heads=3)
    with pytest.raises(ValueError, match="query has width 8 and key 12"):
        lowrank_attention(x, query, value, value, num_heads=2)
    with pytest.raises(ValueError, match=r"key: u .* takes D=5"):
        lowrank_attention(x, query, (jnp.ones((5, 2)), jnp.ones((2, 8))), value, num_heads=2)


def test_traced_sizes_and_ranks_are_cut():
    """Concrete ones out of bounds are errors; traced ones are cut at the rows and at the stored rank."""
    x, up, gate, down, dy = finite_operands("product", np.array([41]))
    run = functools.partial(value_and_gradients, x, up, gate, down, implementation="xla")
    sizes, ranks = jnp.array([20, -3, 30, 9]), (jnp.array([9, 2, -1, 3]), None, None)
    cut = jnp.array([20, 0, 21, 0]), (jnp.array([3, 2, 0, 3]), None, None)
    assert_close(run(sizes, dy, ranks), run(cut[0], dy, cut[1]))
