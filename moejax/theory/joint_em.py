"""Expectation maximisation for Gaussian-gated experts, in closed form: every step is two products with the data.

Source: Xu, Jordan and Hinton 1994 ("An alternative model for mixtures of experts"), equations 13 to 18; Deleforge, Forbes and Horaud 2015
    ("High-dimensional regression with Gaussian mixtures and partially-latent response variables"), section 5, for the sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from moejax.theory.gaussian_gated_moe import GaussianGated, features, joint_coefficients

_ROWS = 1024  # of a block: small enough to stay in the cache


@struct.dataclass
class JointFit:
    """params: reached. value: of the joint log-likelihood per observation before the last step. steps: taken. converged: by tolerance."""

    params: Any
    value: Float[Array, "..."] | Float[np.ndarray, "..."]
    steps: Int[Array, "..."] | Int[np.ndarray, "..."]
    converged: Bool[Array, "..."] | Bool[np.ndarray, "..."]


@struct.dataclass
class Blocks:
    """`features` of the data [blocks, rows, products], with zeros after the last row, and which rows there are [blocks, rows]. used:
    how many of the blocks; the others cost nothing, so that data of every size share one compiled program.
    """

    products: Float[Array, "_ _ _"] | Float[np.ndarray, "_ _ _"]
    present: Float[Array, "_ _"] | Float[np.ndarray, "_ _"]
    used: Int[Array, ""] | int


def blocked(x: Float[np.ndarray, "S D"], y: Float[np.ndarray, "S"], capacity: int | None = None) -> Blocks:
    """On the host, with room for `capacity` observations (None: as many as there are)."""
    products = features(x, y)
    count = -(-max(capacity or 0, len(y)) // _ROWS)
    room = np.zeros((count * _ROWS, products.shape[1]))
    room[: len(y)] = products
    present = (np.arange(len(room)) < len(y)).astype(np.float64)
    return Blocks(room.reshape(count, _ROWS, -1), present.reshape(count, _ROWS), -(-len(y) // _ROWS))


def step(params: GaussianGated, data: Blocks, floor: Any = 0.0) -> tuple[GaussianGated, Float[Array, ""]]:
    """One step, and the joint log-likelihood per observation before it. floor: added to variances of inputs and responses (0: the
    likelihood never falls).
    """
    sums, value = expected_sums(joint_coefficients(params), data)
    return maximised(sums, floor), value


def expected_sums(coefficients: Float[Array, "_ E"], data: Blocks) -> tuple[Float[Array, "E _"], Float[Array, ""]]:
    """Sums of `features` weighted by every expert's responsibilities, and the joint log-likelihood per observation. coefficients: of
    `features`, for the logarithm of each expert's joint density.
    """

    def one(index: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        sums, value = carry
        products, present = data.products[index], data.present[index]
        joint = products @ coefficients
        total = jax.nn.logsumexp(joint, axis=1)
        owners = jnp.exp(joint - total[:, None]) * present[:, None]
        return sums + owners.T @ products, value + total @ present

    zeros = jnp.zeros(coefficients.T.shape, coefficients.dtype)
    sums, value = jax.lax.fori_loop(0, data.used, one, (zeros, jnp.zeros((), zeros.dtype)))
    return sums, value / jnp.sum(sums[:, 0])


def mean_products(sums: Float[Array, "E _"]) -> Float[Array, "E _ _"]:
    """Of sums of `features`, the weighted means of all products as symmetric matrices."""
    width = round((np.sqrt(8 * sums.shape[1] + 1) - 1) / 2)
    rows, columns = np.triu_indices(width)
    means = sums / sums[:, :1]
    return (
        jnp.zeros((len(sums), width, width), sums.dtype).at[:, rows, columns].set(means).at[:, columns, rows].set(means)
    )


@jax.jit
def maximised(sums: Float[Array, "E _"], floor: Any = 0.0) -> GaussianGated:
    """The best parameters for sums of `features`, weighted by the responsibilities of every expert."""
    dim = round((np.sqrt(8 * sums.shape[1] + 1) - 5) / 2)
    mass = sums[:, 0]
    moments = mean_products(sums)
    centre, mean = moments[:, 0, 1:-1], moments[:, 0, -1]
    covariance = moments[:, 1:-1, 1:-1] - centre[:, :, None] * centre[:, None, :]
    covariance = covariance + floor * jnp.eye(dim, dtype=sums.dtype)[None]
    cross = moments[:, 1:-1, -1] - centre * mean[:, None]
    weight = jnp.linalg.solve(covariance, cross[..., None])[..., 0]
    spread = moments[:, -1, -1] - mean * mean
    return GaussianGated(
        log_mass=jnp.log(mass / jnp.sum(mass)),
        centre=centre,
        covariance=covariance,
        weight=weight,
        bias=mean - jnp.sum(weight * centre, axis=1),
        variance=spread - jnp.sum(weight * cross, axis=1) + floor,
    )


@jax.jit
def fit(start: GaussianGated, data: Blocks, max_steps: Any, tolerance: Any, floor: Any = 0.0) -> JointFit:
    """`climbed` by steps of EM."""
    return climbed(lambda params: step(params, data, floor), start, max_steps, tolerance)


def climbed(one_step: Callable[[Any], tuple[Any, Array]], start: Any, max_steps: Any, tolerance: Any) -> JointFit:
    """Until a step raises the log-likelihood by at most `tolerance` times the whole rise since the first step, or `max_steps`.

    one_step: parameters -> better ones, and the log-likelihood before. Parameters float64.
    """

    def unfinished(carry: tuple[Any, ...]) -> Array:
        _, first, before, last, steps = carry
        return (steps < max_steps) & ((steps < 2) | ~(last - before <= tolerance * (last - first)))

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        params, first, _, last, steps = carry
        new, value = one_step(params)
        return new, jnp.where(steps == 0, value, first), last, value, steps + 1

    low = jnp.asarray(-jnp.inf, start.log_mass.dtype)
    params, first, before, last, steps = jax.lax.while_loop(unfinished, body, (start, low, low, low, jnp.asarray(0)))
    return JointFit(params, last, steps, last - before <= tolerance * (last - first))
