"""Distances between densities, by sums over a lattice: Hellinger's, and the Kullback-Leibler divergence.

Both are taken of the logarithm of the ratio, so that densities which agree to nine digits still have an exact distance.
Source: van de Geer 2000, "Empirical processes in M-estimation", chapter 7, for the Hellinger distance with the factor one half,
    which is that of the papers on mixtures of experts.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.lattice import Lattice


def hellinger(
    log_p: Float[np.ndarray, "_"], log_q: Float[np.ndarray, "_"], volume: float | Float[np.ndarray, "_"]
) -> float:
    """The root of half the integral of (sqrt p - sqrt q)^2, from both log-densities at points and the volume of each: in [0, 1].

    Raises SpecError for log-densities of different shapes.
    """
    ratio = _log_ratio(log_p, log_q)
    return float(np.sqrt(0.5 * np.sum(volume * np.exp(log_p) * np.expm1(-ratio / 2) ** 2)))


def kullback_leibler(
    log_p: Float[np.ndarray, "_"], log_q: Float[np.ndarray, "_"], volume: float | Float[np.ndarray, "_"]
) -> float:
    """The integral of p log(p / q) for densities that are both one in sum, by terms that are none of them negative.

    p (q / p - 1 - log(q / p)) sums to the same, as p and q have equal mass, and does not cancel.
    Raises SpecError for log-densities of different shapes.
    """
    ratio = _log_ratio(log_p, log_q)
    return float(np.sum(volume * np.exp(log_p) * (np.expm1(-ratio) + ratio)))


def between(model: GaussianMoE, true: Any, fitted: Any, lattice: Lattice) -> dict[str, float]:
    """'hellinger' and 'kl' of y given x, averaged over the lattice's inputs (the squares of the former are).

    Raises SpecError where the lattice does not hold the mass of either.
    """
    with jax.enable_x64(True):
        x, y = jnp.asarray(lattice.x), jnp.asarray(lattice.y)
        log_p, log_q = (np.asarray(_log_density(model, jax.tree.map(jnp.asarray, p), x, y)) for p in (true, fitted))
    lattice.probabilities(log_p), lattice.probabilities(log_q)
    volume = lattice.step / lattice.num_inputs
    return {"hellinger": hellinger(log_p, log_q, volume), "kl": kullback_leibler(log_p, log_q, volume)}


@functools.partial(jax.jit, static_argnums=0)
def _log_density(model: GaussianMoE, params: Any, x: Float[Array, "N"], y: Float[Array, "N"]) -> Float[Array, "N"]:
    return model.log_density(params, x, y)


def _log_ratio(log_p: Float[np.ndarray, "..."], log_q: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    if log_p.shape != log_q.shape:
        raise SpecError(f"log-densities at {log_p.shape} and at {log_q.shape} points; take both at the same.")
    return log_p - log_q
