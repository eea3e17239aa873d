"""Sums over the gradients of single examples, against gradients written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.collect import collect
from moejax.core.spec import build_method
from moejax.layers.moe import MoE
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank

KINDS = ("fisher", "fisher_rows", "kronecker")


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def params():
    return {"w": Dense(jnp.asarray(draw(0, 3, 2)))}


def loss(params, batch):
    """Half the squared distance: the gradient of one example is the outer product of x and x w - y."""
    return 0.5 * jnp.sum(jnp.square(params["w"].matmul(batch["x"]) - batch["y"]))


def data(seed, size=6):
    return {"x": draw(seed, size, 3), "y": draw(seed + 100, size, 2)}


def gradients(batches):
    kernel = np.asarray(params()["w"].kernel, np.float64)
    return np.array(
        [np.outer(x, x @ kernel - y) for batch in batches for x, y in zip(batch["x"], batch["y"], strict=True)]
    )


@pytest.mark.parametrize("chunk", [1, 4, 6, 100])
def test_sums_by_definition(chunk):
    batches = [data(1), data(2)]
    own = collect(loss, params(), batches, KINDS, chunk=chunk).statistics["w"]
    g = gradients(batches)
    assert own.examples == 12
    np.testing.assert_allclose(own.fisher, (g**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(own.fisher_rows, (g**2).sum((0, 2)), rtol=1e-4)
    np.testing.assert_allclose(own.kronecker_in, np.einsum("nij,nkj->ik", g, g), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own.kronecker_out, np.einsum("nij,nik->jk", g, g), rtol=1e-4, atol=1e-4)
    assert own.second_moment is None


def test_further_passes_take_the_factors_of_the_one_before():
    batches, g = [data(1), data(2)], gradients([data(1), data(2)])
    inside, outside = np.eye(3), np.eye(2)
    for passes in (1, 2, 3):
        own = collect(loss, params(), batches, ("kronecker",), passes=passes).statistics["w"]
        a, b = np.einsum("nij,jl,nkl->ik", g, outside, g), np.einsum("nij,ik,nkl->jl", g, inside, g)
        np.testing.assert_allclose(own.kronecker_in, a, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(own.kronecker_out, b, rtol=1e-3, atol=1e-4)
        assert own.examples == 12
        inside, outside = a / np.linalg.norm(a), b / np.linalg.norm(b)


def test_passes_converge_to_the_nearest_kronecker_product():
    batches = [data(1), data(2)]
    g = gradients(batches)
    fisher = np.einsum("nij,nkl->ikjl", g, g)  # sum of vec(g) vec(g)^T with row pairs in front
    left, scale, right = np.linalg.svd(fisher.reshape(9, 4))
    own = collect(loss, params(), batches, ("kronecker",), passes=12).statistics["w"]
    found = [matrix.ravel() / np.linalg.norm(matrix) for matrix in (own.kronecker_in, own.kronecker_out)]
    assert abs(found[0] @ left[:, 0]) > 1 - 1e-5 and abs(found[1] @ right[0]) > 1 - 1e-5
    assert scale[0] > 0


def test_forward_and_gradient_kinds_come_from_one_pass_and_two_functions():
    batches = [data(1), data(2)]
    found = collect(
        lambda p, b: p["w"].matmul(b["x"]), params(), iter(batches), ("second_moment", "fisher_rows"), loss=loss
    )
    own, x = found.statistics["w"], np.concatenate([batch["x"] for batch in batches])
    np.testing.assert_allclose(own.second_moment, x.T @ x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own.fisher_rows, (gradients(batches) ** 2).sum((0, 2)), rtol=1e-4)
    assert own.count == own.examples == found.examples == 12


def test_gradients_may_come_from_fewer_batches():
    batches = [data(1), data(2), data(3)]
    found = collect(
        lambda p, b: p["w"].matmul(b["x"]), params(), batches, ("absolute", "fisher", "kronecker"), loss=loss,
        gradient_batches=2, passes=2,
    )  # fmt: skip
    own, few = (
        found.statistics["w"],
        collect(loss, params(), batches[:2], ("fisher", "kronecker"), passes=2).statistics["w"],
    )
    assert (own.count, own.examples, found.examples) == (18, 12, 18)
    for field in ("fisher", "kronecker_in", "kronecker_out"):
        np.testing.assert_allclose(getattr(own, field), getattr(few, field), rtol=1e-5)


def test_plain_arrays_and_factorised_leaves_count_as_the_kernels_they_stand_for():
    kernel = draw(0, 3, 2)
    u, _, _ = np.linalg.svd(kernel)
    both = {"plain": jnp.asarray(kernel), "factors": LowRank(jnp.asarray(u), jnp.asarray(u.T @ kernel))}

    def two(params, batch):
        sides = batch["x"] @ params["plain"], params["factors"].matmul(batch["x"])
        return sum(0.5 * jnp.sum(jnp.square(side - batch["y"])) for side in sides)

    found = collect(two, both, [data(1)], ("fisher",)).statistics
    wanted = (gradients([data(1)]) ** 2).sum(0)
    np.testing.assert_allclose(found["plain"].fisher, wanted, rtol=1e-3)
    np.testing.assert_allclose(found["factors"].fisher, wanted, rtol=1e-3)


@pytest.mark.slow
def test_a_bank_has_sums_per_expert_and_an_idle_expert_has_none():
    layer = MoE(
        router=build_method("routing", {"name": "top_k", "num_experts": 3, "num_selected_experts": 1}),
        experts=build_method("experts", {"name": "mlp", "expert_dim": 5}),
        dispatch="gather",
    )
    weights, state = layer.init(jax.random.key(0), 4)
    weights["router"]["kernel"] = weights["router"]["kernel"].at[:, 2].set(0.0).at[0, 2].set(-1e3)
    x = jnp.asarray(np.abs(draw(1, 6, 8, 4)))

    def total(p, x):
        return jnp.sum(jnp.square(layer.apply(p, state, x).tokens))

    own = collect(total, weights, [x], KINDS, only="up$", passes=2).statistics["experts/up"]
    single = [jax.grad(lambda k, i=i: total({**weights, "experts": {**weights["experts"], "up": Dense(k)}}, x[i : i + 1]))(
        weights["experts"]["up"].kernel) for i in range(6)]  # fmt: skip
    np.testing.assert_allclose(
        own.fisher, sum(np.square(np.asarray(g, np.float64)) for g in single), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_array_equal(own.examples, [6, 6, 6])
    assert not own.fisher[2].any() and not own.kronecker_in[2].any() and own.fisher[:2].any((1, 2)).all()
