"""Flat directions of matrices that are known, of softmax gates, and of temperatures; and the identity that makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.gates.temperature import Temperature
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.identifiability import flat_directions, least_eigenvalue, parameter_names
from moejax.theory.lattice import Lattice


def test_directions_of_a_matrix_are_named():
    flat = np.array([2.0, 0.0, -1.0, 0.0])
    information = np.diag([1.0, 2.0, 4.0, 3.0])
    projector = np.eye(4) - np.outer(flat, flat) / 5
    (found,) = flat_directions(projector @ information @ projector, ("a", "b", "c", "d"))
    assert dict(found.change) == pytest.approx({"a": 1.0, "c": -0.5})
    assert str(found) == "(a : c) along (1 : -0.5)"
    assert flat_directions(information, ("a", "b", "c", "d")) == () and least_eigenvalue(information) == 1.0


def test_a_rotated_basis_is_told_apart():
    first, second = np.array([1.0, 1.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, -2.0, 0.0])
    basis = np.linalg.qr(np.stack([first + second, first - 3 * second], axis=1))[0]
    found = flat_directions(np.eye(5) - basis @ basis.T, tuple("abcde"))
    assert [dict(one.change) for one in found] == [
        pytest.approx({"a": 1.0, "b": 1.0}),
        pytest.approx({"c": 0.5, "d": -1.0}),
    ]


def test_a_softmax_gate_has_its_two_translations():
    params = {
        "gate": {"kernel": np.array([[2.0, 0.0]]), "bias": np.array([0.3, 0.0])},
        "weight": np.array([1.0, -1.0]),
        "bias": np.array([2.0, -2.0]),
        "log_variance": np.log([0.25, 0.36]),
    }
    lattice, model = Lattice(), GaussianMoE()
    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, params)
        log_p = np.asarray(model.log_density(arrays, jnp.asarray(lattice.x), jnp.asarray(lattice.y)))
    information = model.fisher_information(params, lattice.x, lattice.y, lattice.probabilities(log_p))
    names = parameter_names(params)
    assert names[:6] == ("bias 0", "bias 1", "gate bias 0", "gate bias 1", "gate kernel 0 0", "gate kernel 0 1")
    assert [dict(one.change) for one in flat_directions(information, names)] == [
        pytest.approx({"gate bias 0": 1.0, "gate bias 1": 1.0}),
        pytest.approx({"gate kernel 0 0": 1.0, "gate kernel 0 1": 1.0}),
    ]


@pytest.mark.parametrize("activation, holds", [("identity", True), ("relu", True), ("tanh", False), ("gelu", False)])
def test_kernel_bias_and_temperature_move_an_expert_together(activation, holds):
    """With u = exp(score) N(y | a x + b, nu): kernel du/dkernel + bias du/dbias + tau du/dtau = 0 where the activation is homogeneous."""
    gate = Temperature(activation=activation)
    with jax.enable_x64(True):
        params = {name: jnp.asarray(v) for name, v in (("kernel", 1.7), ("bias", 0.3), ("log_temperature", -0.4))}

        def density(params, x, y):
            shaped = params | {"kernel": params["kernel"][None, None], "bias": params["bias"][None]}
            return jnp.exp(gate.logits(shaped, x[None])[0] - 0.5 * (y - 2.0 * x + 1.0) ** 2)

        for x, y in ((0.7, 0.2), (-0.4, -1.5), (1.3, 2.0)):
            slopes = jax.grad(density)(params, jnp.asarray(x), jnp.asarray(y))
            # The slope in the logarithm is tau times the slope in tau.
            along = params["kernel"] * slopes["kernel"] + params["bias"] * slopes["bias"] + slopes["log_temperature"]
            assert (abs(float(along)) < 1e-12) == holds


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match=r"one row for each of 2 names; leave pinned"):
        flat_directions(np.eye(3), ("a", "b"))
