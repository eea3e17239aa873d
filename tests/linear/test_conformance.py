"""Laws of every leaf type that the folder holds, over the examples of its file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.layouts import Buffers, Ragged
from moejax.core.segments import stack, unstack
from moejax.linear.contract import Leaf, is_leaf
from moejax.linear.expert_axis import add_expert_axis, cleared, drop_expert_axis, take_experts
from moejax.linear.mix import mix
from moejax.linear.registry import examples, leaf_types
from tests.first_examples import quick_first
from tests.linear.flat_products import count_product_flops
from tests.linear.leaf_examples import NAMES, by_einsum, close, drawn, kernels_of, layouts, normal

E = 4
FIRST = [name for name in NAMES if name.endswith("-0")]
QUICK = quick_first(NAMES)


def test_every_leaf_type_has_examples():
    assert {"dense", "low_rank", "shared_factor", "shared_basis", "cp", "tensor_ring", "mpo", "indexed"} <= set(
        leaf_types()
    )
    assert {name.rpartition("-")[0] for name in examples()} == set(leaf_types())
    for name in NAMES:
        assert isinstance(drawn(name), (Leaf, leaf_types()[name.rpartition("-")[0]]))
        assert isinstance(drawn(name), Leaf)


def loss_of(product):
    return jnp.sum(jnp.sin(product))


@pytest.mark.parametrize("layout", ["buffers", "rows"])
@pytest.mark.parametrize("name", QUICK)
def test_products_equal_the_einsum_with_materialise(name, layout):
    leaf = drawn(name)
    depth, width = leaf.materialise().shape[-2:]
    x, bias = layouts(depth)[layout], normal(2, E, width)

    def found(leaf, tokens, bias):
        y = leaf.grouped_matmul(x.replace(tokens=tokens), bias=bias, activation="gelu")
        assert isinstance(y, type(x))
        plain = leaf.grouped_matmul(x.replace(tokens=tokens)).tokens
        return loss_of(y.tokens) + loss_of(plain), (y.tokens, plain)

    def wanted(leaf, tokens, bias):
        y, plain = by_einsum(leaf, x.replace(tokens=tokens), bias, "gelu"), by_einsum(leaf, x.replace(tokens=tokens))
        return loss_of(y) + loss_of(plain), (y, plain)

    both = [
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(leaf, x.tokens, bias) for f in (found, wanted)
    ]
    close(both[0][0][1], both[1][0][1])
    close(both[0][1], both[1][1], 3e-5)


@pytest.mark.parametrize("name", QUICK)
def test_one_expert_alone(name):
    leaf = drawn(name)
    kernel = kernels_of(leaf, E)
    x = normal(1, 2, 3, kernel.shape[1])
    one = drop_expert_axis(take_experts(leaf, (2,)))

    def found(one, x):
        product = one.matmul(x)
        bank = add_expert_axis(one)
        as_bank = bank.grouped_matmul(Buffers(x.reshape(1, -1, x.shape[-1]))).tokens
        return loss_of(product), (product, as_bank.reshape(product.shape))

    def wanted(one, x):
        product = x @ one.materialise()
        return loss_of(product), (product, product)

    both = [jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(one, x) for f in (found, wanted)]
    close(both[0][0][1], both[1][0][1])
    close(both[0][1], both[1][1], 3e-5)
    close(one.materialise(), kernel[2])


@pytest.mark.parametrize("name", QUICK)
def test_experts_taken_and_cleared(name):
    leaf = drawn(name)
    kernel = kernels_of(leaf, E)
    close(kernels_of(take_experts({"up": leaf}, (3, 0, 3))["up"], 3), kernel[np.array([3, 0, 3])])
    close(kernels_of(cleared(leaf), E), kernel)


@pytest.mark.parametrize("name", NAMES)
def test_counts_equal_what_is_counted(name):
    leaf = drawn(name)
    entries = sum(array.size for array in jax.tree.leaves(leaf))
    padded = is_padded(leaf)
    assert leaf.num_params() < entries if padded else leaf.num_params() == entries
    if padded or name.startswith("indexed"):
        return  # their FLOPs are those of a mean, or of what is inside
    rows = 24
    one = take_experts(leaf, (0,))
    x = Buffers(jnp.zeros((1, rows, leaf.materialise().shape[-2])))
    jaxpr = jax.make_jaxpr(lambda leaf, x: leaf.grouped_matmul(x))(one, x)
    assert count_product_flops(jaxpr.jaxpr) == rows * leaf.flops_per_row() + leaf.flops_once()


def is_padded(leaf):
    parts = [getattr(leaf, field.name) for field in dataclasses.fields(leaf)]
    return getattr(leaf, "ranks", None) is not None or any(is_padded(part) for part in parts if is_leaf(part))


@pytest.mark.parametrize("name", NAMES)
def test_mix_equals_the_mixture_of_kernels(name):
    leaf = drawn(name)
    weight = jax.nn.softmax(normal(3, 3, E), axis=-1)

    def mixed(leaf, weight):
        return mix({"up": leaf}, weight)["up"]

    def wanted(leaf, weight):
        return jnp.einsum("GE,EDF->GDF", weight, kernels_of(leaf, E))

    close(kernels_of(jax.jit(mixed)(leaf, weight), 3), wanted(leaf, weight))
    x = normal(1, 3, 5, leaf.materialise().shape[-2])
    by_leaf, by_kernel = (
        jax.jit(jax.grad(f, argnums=(0, 1)))(leaf, weight)
        for f in (
            lambda leaf, weight: loss_of(mixed(leaf, weight).grouped_matmul(Buffers(x)).tokens),
            lambda leaf, weight: loss_of(jnp.einsum("GCD,GDF->GCF", x, wanted(leaf, weight))),
        )
    )
    close(by_leaf, by_kernel, 3e-5)


@pytest.mark.parametrize("name", FIRST)
def test_bfloat16_rows(name):
    leaf = drawn(name)
    bias = normal(2, E, leaf.materialise().shape[-1])
    for x in layouts(leaf.materialise().shape[-2]).values():
        low = x.replace(tokens=x.tokens.astype(jnp.bfloat16))
        ended = jax.eval_shape(lambda low: leaf.grouped_matmul(low, bias=bias, activation="silu"), low)
        assert ended.tokens.dtype == jnp.bfloat16
        found = jax.jit(leaf.grouped_matmul)(low).tokens
        assert found.dtype == jnp.bfloat16
        close(found.astype(jnp.float32), by_einsum(leaf, low.replace(tokens=low.tokens.astype(jnp.float32))), 0.05)
    one = drop_expert_axis(take_experts(leaf, (1,)))
    assert jax.eval_shape(one.matmul, low.tokens).dtype == jnp.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_layers_are_scanned(name):
    layers = [drawn(name, seed=seed) for seed in (4, 5)]
    x = layouts(layers[0].materialise().shape[-2])["rows"]
    back = normal(6, *layers[0].materialise().shape[:-3:-1])  # [F D], so that layers follow each other

    def layer(x, leaf):
        tokens = jnp.tanh(leaf.grouped_matmul(x).tokens @ back)
        return dataclasses.replace(x, tokens=tokens), None

    def scanned(stacked):
        return loss_of(jax.lax.scan(layer, x, stacked)[0].tokens)

    def looped(stacked):
        out = x
        for leaf in unstack(stacked, 2):
            out, _ = layer(out, leaf)
        return loss_of(out.tokens)

    stacked = stack(layers)
    assert type(stacked) is type(layers[0])
    found, wanted = (jax.jit(jax.value_and_grad(f))(stacked) for f in (scanned, looped))
    close(found, wanted, 3e-5)


@pytest.mark.parametrize("name", FIRST)
def test_no_rows_at_all(name):
    leaf = drawn(name)
    depth, width = leaf.materialise().shape[-2:]
    x = Ragged(jnp.zeros((0, depth)), jnp.zeros((E,), jnp.int32))
    assert jax.eval_shape(leaf.grouped_matmul, x).tokens.shape == (0, width)
    assert jax.eval_shape(leaf.grouped_matmul, Buffers(jnp.zeros((E, 0, depth)))).tokens.shape == (E, 0, width)
