"""The tensor-ring leaf against traces of products of slices; trains; its cost."""

import jax.numpy as jnp
import numpy as np

from moejax.linear.tensor_ring import TensorRing


def drawn(bonds, seed=0):
    r, r2, r3 = bonds
    draw = np.random.default_rng(seed)
    return draw.normal(size=(3, r, r2)), draw.normal(size=(4, r3, r)), draw.normal(size=(r3, r2, 5))


def test_traces_of_slices():
    core, inputs, outputs = drawn((2, 3, 4))
    # The ring expert -> output -> input -> expert: core[e] [R R2], output [R2 R3] of f, input [R3 R] of d.
    wanted = np.array(
        [[[np.trace(core[e] @ outputs[:, :, f].T @ inputs[d]) for f in range(5)] for d in range(4)] for e in range(3)]
    )
    leaf = TensorRing(*(jnp.asarray(a, jnp.float32) for a in (core, inputs, outputs)))
    np.testing.assert_allclose(leaf.materialise(), wanted, rtol=1e-4, atol=1e-5)


def test_a_train_is_a_ring_with_one_open_bond():
    core, inputs, outputs = drawn((1, 3, 2))
    # In the order e, f, d: [E R2] [R2 F R3] [R3 D].
    wanted = np.einsum("ej,kjf,dk->edf", core[:, 0], outputs, inputs[:, :, 0])
    leaf = TensorRing(*(jnp.asarray(a, jnp.float32) for a in (core, inputs, outputs)))
    np.testing.assert_allclose(leaf.materialise(), wanted, rtol=1e-4, atol=1e-5)


def test_counts():
    leaf = TensorRing(*(jnp.asarray(a, jnp.float32) for a in drawn((2, 3, 4))))
    assert leaf.num_params() == 3 * 2 * 3 + 4 * 4 * 2 + 4 * 3 * 5
    assert leaf.flops_per_row() == 2 * (4 * 4 * 2 + 4 * 2 * 3 + 4 * 3 * 5)
