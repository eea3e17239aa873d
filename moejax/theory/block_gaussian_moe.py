"""Localised mixtures of polynomial experts with several responses, whose covariances have blocks: density, sampler, closed-form EM.

p(y | x) = sum_i g_i(x) N(y | W_i (1, x, ..., x^d), S_i), g_i proportional to pi_i N(x | c_i, gamma_i), S_i block-diagonal up to an order of the
responses. Means are free and have the same regressors for every response, so that least squares gives them whatever the covariance, and
the best covariance of a structure is the residuals' with zeros outside its blocks: every step of EM is exact.
Source: Nguyen et al. 2021 ("A non-asymptotic model selection in block-diagonal mixture of polynomial experts models"), section 2 (BLoMPE);
    for d = 1 BLoME of Nguyen et al. 2022 ("A non-asymptotic approach for model selection via penalization in high-dimensional mixture of
    experts models"); Deleforge, Forbes and Horaud 2015 for the steps.
Deviations: gates see one input.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError
from moejax.theory.covariance_blocks import num_covariances
from moejax.theory.gaussian_gated_moe import Parameter, exponents
from moejax.theory.joint_em import Blocks, JointFit, blocked, climbed, expected_sums, mean_products


@struct.dataclass
class BlockGaussian:
    """log_mass: log pi [E]. centre: c [E]. spread: gamma, a variance [E]. weight: W [E Q d+1]. covariance: S [E Q Q]. Leading axes in
    front of all of them where several are held.
    """

    log_mass: Parameter
    centre: Parameter
    spread: Parameter
    weight: Parameter
    covariance: Parameter


def num_parameters(blocks: Int[np.ndarray, "E _"], degree: int) -> int:
    """Free numbers of a model: masses, centres, spreads, weights, and covariances within `blocks`."""
    experts, responses = blocks.shape
    return 3 * experts - 1 + experts * responses * (degree + 1) + num_covariances(blocks)


def products(
    x: Float[np.ndarray, "S"], y: Float[np.ndarray, "S _"], degree: int, capacity: int | None = None
) -> Blocks:
    """`features` of (1, x, ..., x^degree, y), on the host, in blocks with room for `capacity` observations.

    Raises SpecError for a degree below 1, which would leave the gate no input.
    """
    if degree < 1:
        raise SpecError(f"degree={degree} must be at least 1: the gate reads x from the regressors.")
    powers = x[:, None] ** np.arange(1, degree + 1)
    return blocked(np.concatenate([powers, y[:, :-1]], axis=1), y[:, -1], capacity)


def joint_coefficients(params: BlockGaussian) -> Float[Array, "_ E"]:
    """Of `products`, for log pi_i + log N(x | c_i, gamma_i) + log N(y | W_i (1, x, ...), S_i)."""
    responses = params.weight.shape[1]
    eye = jnp.broadcast_to(jnp.eye(responses, dtype=params.weight.dtype), params.covariance.shape)
    residual = jnp.concatenate([-params.weight, eye], axis=2)
    form = jnp.einsum("eqw,eqr,erv->ewv", residual, jnp.linalg.inv(params.covariance), residual)
    gate = jnp.stack([params.centre**2, -params.centre, -params.centre, jnp.ones_like(params.centre)], axis=1)
    form = form.at[:, :2, :2].add(gate.reshape(-1, 2, 2) / params.spread[:, None, None])
    size = jnp.linalg.slogdet(params.covariance)[1] + jnp.log(params.spread)
    constant = params.log_mass - 0.5 * ((responses + 1) * math.log(2 * math.pi) + size)
    return exponents(form).at[:, 0].add(constant).T


def log_density(params: BlockGaussian, rows: Float[Array, "S _"]) -> Float[Array, "S"]:
    """Of y given x, from their `products`."""
    x = rows[:, 1]
    off = x[:, None] - params.centre[None]
    gates = params.log_mass - 0.5 * jnp.log(2 * math.pi * params.spread)
    gates = gates[None] - 0.5 * off * off / params.spread[None]
    return jax.nn.logsumexp(rows @ joint_coefficients(params), axis=1) - jax.nn.logsumexp(gates, axis=1)


def maximised(sums: Float[Array, "E _"], within: Float[Array, "E _ _"], floor: Any = 0.0) -> BlockGaussian:
    """The best parameters for weighted sums of `products`. within: 1 in the blocks of every expert's covariance, 0 outside. floor: added
    to all variances.
    """
    responses = within.shape[1]
    moments, mass = mean_products(sums), sums[:, 0]
    regressors = moments.shape[1] - responses
    gram, cross = moments[:, :regressors, :regressors], moments[:, :regressors, regressors:]
    weight = jnp.swapaxes(jnp.linalg.solve(gram, cross), 1, 2)
    residual = moments[:, regressors:, regressors:] - weight @ cross
    return BlockGaussian(
        log_mass=jnp.log(mass / jnp.sum(mass)),
        centre=moments[:, 0, 1],
        spread=moments[:, 1, 1] - moments[:, 0, 1] ** 2 + floor,
        weight=weight,
        covariance=within * (residual + floor * jnp.eye(responses, dtype=sums.dtype)[None]),
    )


@jax.jit
def fits(
    starts: BlockGaussian, within: Float[Array, "M E _ _"], data: Blocks, max_steps: Any, tolerance: Any, floor: Any
) -> JointFit:
    """EM from M starts, each with its own blocks, on the same data: as `joint_em.climbed`, with M in front of everything."""

    def one(start: BlockGaussian, within: Array) -> JointFit:
        def step(params: BlockGaussian) -> tuple[BlockGaussian, Array]:
            sums, value = expected_sums(joint_coefficients(params), data)
            return maximised(sums, within, floor), value

        return climbed(step, start, max_steps, tolerance)

    return jax.vmap(one)(starts, within)


def sample(
    params: BlockGaussian, num_examples: int, draw: np.random.Generator
) -> tuple[Float[np.ndarray, "S"], Float[np.ndarray, "S _"]]:
    """Inputs and responses, on the host."""
    mass = np.exp(np.asarray(params.log_mass))
    expert = draw.choice(len(mass), size=num_examples, p=mass / mass.sum())
    spread = np.sqrt(np.asarray(params.spread))[expert]
    x = np.asarray(params.centre)[expert] + spread * draw.standard_normal(num_examples)
    weight, roots = np.asarray(params.weight), np.linalg.cholesky(np.asarray(params.covariance))
    regressors = x[:, None] ** np.arange(weight.shape[2])
    mean = np.einsum("sqw,sw->sq", weight[expert], regressors)
    return x, mean + np.einsum("sqr,sr->sq", roots[expert], draw.standard_normal(mean.shape))
