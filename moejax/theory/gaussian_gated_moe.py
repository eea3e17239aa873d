"""Mixtures of linear experts whose gate is the posterior of a Gaussian mixture of the inputs: densities and sampler.

p(y | x) = sum_i g_i(x) N(y | a_i x + b_i, nu_i), g_i proportional to pi_i N(x | c_i, Gamma_i). Inputs and responses together are a mixture of
Gaussians, of which every component is a quadratic function of (1, x, y): that is what makes the estimation a matter of sums.
Source: Xu, Jordan and Hinton 1994 ("An alternative model for mixtures of experts"), section 3; Nguyen et al. 2024 ("Towards convergence
    rates for parameter estimation in Gaussian-gated mixture of experts"), equations 1 and 2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

Parameter = Float[Array, "..."] | Float[np.ndarray, "..."]


@struct.dataclass
class GaussianGated:
    """log_mass: log pi [E]. centre: c [E D]. covariance: Gamma [E D D]. weight: a [E D]. bias: b [E]. variance: nu [E]. Leading axes
    in front of all of them where several are held.
    """

    log_mass: Parameter
    centre: Parameter
    covariance: Parameter
    weight: Parameter
    bias: Parameter
    variance: Parameter


def num_parameters(num_experts: int, dim: int) -> int:
    """Free numbers of a model: masses, centres, covariances, weights, biases and variances. 6 E - 1 for one input."""
    return num_experts * (1 + dim + dim * (dim + 1) // 2 + dim + 2) - 1


def features(x: Float[np.ndarray, "S D"], y: Float[np.ndarray, "S"]) -> Float[np.ndarray, "S _"]:
    """Products of every two of (1, x, y), each once, the upper triangle row by row: S observations, (D + 2)(D + 3) / 2 of them."""
    joint = np.concatenate([np.ones((len(y), 1)), x, y[:, None]], axis=1)
    rows, columns = np.triu_indices(joint.shape[1])
    return joint[:, rows] * joint[:, columns]


def exponents(form: Float[Array, "E _ _"]) -> Float[Array, "E _"]:
    """Of `features`, for -1/2 (1, x, y) Q (1, x, y)' with symmetric Q."""
    rows, columns = np.triu_indices(form.shape[1])
    twice = jnp.asarray(np.where(rows == columns, 1.0, 2.0), form.dtype)
    return -0.5 * form[:, rows, columns] * twice[None]


def joint_coefficients(params: GaussianGated) -> Float[Array, "_ E"]:
    """Of `features`, for log pi_i + log N(x | c_i, Gamma_i) + log N(y | a_i x + b_i, nu_i)."""
    dim = params.centre.shape[1]
    precision = jnp.linalg.inv(params.covariance)
    pulled = jnp.einsum("edf,ef->ed", precision, params.centre)
    # The exponent is -1/2 (1, x, y) Q (1, x, y)', with Q the sum of the gate's form and of the expert's square.
    gate = jnp.zeros((len(params.bias), dim + 2, dim + 2), params.bias.dtype)
    gate = gate.at[:, 0, 0].set(jnp.sum(pulled * params.centre, axis=1))
    gate = gate.at[:, 0, 1:-1].set(-pulled).at[:, 1:-1, 0].set(-pulled).at[:, 1:-1, 1:-1].set(precision)
    off = jnp.concatenate([-params.bias[:, None], -params.weight, jnp.ones_like(params.bias)[:, None]], axis=1)
    form = gate + off[:, :, None] * off[:, None, :] / params.variance[:, None, None]
    coefficients = exponents(form)
    spread = jnp.linalg.slogdet(params.covariance)[1] + jnp.log(params.variance)
    constant = params.log_mass - 0.5 * ((dim + 1) * math.log(2 * math.pi) + spread)
    return coefficients.at[:, 0].add(constant).T


def gate_scores(params: GaussianGated, x: Float[Array, "S D"]) -> Float[Array, "S E"]:
    """Logits of the gate: log pi_i + log N(x | c_i, Gamma_i)."""
    off = x[:, None] - params.centre[None]
    square = jnp.einsum("sed,edf,sef->se", off, jnp.linalg.inv(params.covariance), off)
    spread = jnp.linalg.slogdet(params.covariance)[1] + x.shape[1] * math.log(2 * math.pi)
    return params.log_mass[None] - 0.5 * (square + spread[None])


def log_density(params: GaussianGated, x: Float[Array, "S D"], y: Float[Array, "S"]) -> Float[Array, "S"]:
    """Of y given x."""
    off = y[:, None] - x @ params.weight.T - params.bias[None]
    experts = -0.5 * (jnp.log(2 * math.pi * params.variance)[None] + off * off / params.variance[None])
    gates = gate_scores(params, x)
    return jax.nn.logsumexp(gates + experts, axis=1) - jax.nn.logsumexp(gates, axis=1)


def sample(
    params: GaussianGated, num_examples: int, draw: np.random.Generator
) -> tuple[Float[np.ndarray, "S D"], Float[np.ndarray, "S"]]:
    """Inputs and responses, on the host."""
    mass, dim = np.exp(np.asarray(params.log_mass)), params.centre.shape[1]
    expert = draw.choice(len(mass), size=num_examples, p=mass / mass.sum())
    roots = np.linalg.cholesky(np.asarray(params.covariance))
    x = np.asarray(params.centre)[expert] + np.einsum(
        "sdf,sf->sd", roots[expert], draw.standard_normal((num_examples, dim))
    )
    mean = np.sum(np.asarray(params.weight)[expert] * x, axis=1) + np.asarray(params.bias)[expert]
    return x, mean + np.sqrt(np.asarray(params.variance)[expert]) * draw.standard_normal(num_examples)
