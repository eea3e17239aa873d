"""Mixtures fitted to the counts of a lattice, all replicates of one size in one compiled call. Source: ours."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.lattice import Lattice
from moejax.theory.newton import Fit, by_autodiff, maximise


def cell_probabilities(model: GaussianMoE, params: Any, lattice: Lattice) -> Float[np.ndarray, "_"]:
    """Of all cells under the model. Raises SpecError as `Lattice.probabilities`."""
    with jax.enable_x64(True):
        held = jax.tree.map(jnp.asarray, params)
        log_p = model.log_density(held, jnp.asarray(lattice.x), jnp.asarray(lattice.y))
    return lattice.probabilities(np.asarray(log_p))


@functools.partial(jax.jit, static_argnames=("model", "lattice", "iterations", "at_once"))
def lattice_fits(
    starts: Float[Array, "R _"],
    shares: Float[Array, "R _"],
    like: Any,
    free: Bool[Array, "_"],
    *,
    model: GaussianMoE,
    lattice: Lattice,
    iterations: int,
    at_once: int,
) -> Fit:
    """Newton's method from packed starts, on the share of observations in every cell; the likelihood is per observation.

    like: a tree of the parameters' shapes, packed as `ravel_pytree` does. free: which packed parameters move. float64 must be on.
    """
    unravel = ravel_pytree(like)[1]
    x, y = jnp.asarray(lattice.x), jnp.asarray(lattice.y)

    def one(arrays: tuple[Array, Array]) -> Fit:
        start, share = arrays
        value = by_autodiff(lambda theta: jnp.sum(share * model.log_density(unravel(theta), x, y)))
        return maximise(value, start, iterations=iterations, free=free)

    return jax.lax.map(one, (starts, shares), batch_size=at_once)
