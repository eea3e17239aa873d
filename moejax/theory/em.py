"""Expectation-maximisation as in the published simulations: starts beside the truth, and an early stop.

It is here to repeat what was published. The relative tolerance of 1e-6 ends it long before the maximum of the likelihood where
atoms nearly coincide; `newton` and `multi_start` find the maximum.
Source: Nguyen et al. 2023 ("Demystifying softmax gating function in Gaussian mixture of experts"), section 4, and the code of its
    authors: their R functions `initParam` and `emNMoE`.
Deviations: sums over the inputs alone, which the gate's step needs, are taken at `gate_nodes`, and agree with the plain sums to
    1e-12; a gate's step that would lower its criterion is halved, where the authors raise a ridge.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from moejax.core.errors import SpecError
from moejax.theory.softmax_gaussian import BIAS, KERNEL, LOG_VARIANCE, SHIFT, WEIGHT, WIDTH

_BLOCK = 4096  # examples whose arrays fit the cache
_GROUP = 32  # logarithms are taken of products of so many sums, each between 1 and the number of experts
_PANELS, _DEGREE = 32, 12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EMFit:
    """Of R replicates from T starts: params [R T 5 E]; value [R T]: log-likelihood per example before the last step; iterations [R T];
    converged [R T]: stopped by the rule.
    """

    params: Float[Array, "... _"]
    value: Float[Array, "..."]
    iterations: Int[Array, "..."]
    converged: Bool[Array, "..."]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EM:
    """tolerance: of the relative change of the log-likelihood, and of the gate's criterion. The last expert's gate stays at zero.

    Raises SpecError for a tolerance that is not positive and for fewer than 2 iterations.
    """

    tolerance: float = 1e-6
    iterations: int = 2000
    gate_iterations: int = 300

    def __post_init__(self) -> None:
        if not self.tolerance > 0 or self.iterations < 2 or self.gate_iterations < 1:
            raise SpecError(
                f"EM needs tolerance={self.tolerance} above 0, iterations={self.iterations} of at least 2 and gate_iterations="
                f"{self.gate_iterations} of at least 1."
            )

    def fit(self, starts: Float[np.ndarray, "R T _"], x: Float[np.ndarray, "_"], y: Float[np.ndarray, "_ _"]) -> EMFit:
        """All replicates, which share their inputs x, from all of their starts [R T 5 E], packed as in `softmax_gaussian`.

        It compiles once for all numbers of examples up to a power of two. Raises SpecError where shapes do not match.
        """
        if len(starts) != len(y) or y.shape[1] != len(x):
            raise SpecError(
                f"starts of {len(starts)} replicates for responses of {len(y)}, {y.shape[1]} of each at {len(x)} inputs; these must agree."
            )
        blocks = 8 << max(0, math.ceil(math.log2(len(x) / _BLOCK / 8)))
        padding = blocks * _BLOCK - len(x)
        nodes, weights = gate_nodes(x)
        with jax.enable_x64(True):
            return _fit(
                self,
                jnp.asarray(starts),
                jnp.asarray(np.pad(x, (0, padding)).reshape(blocks, _BLOCK)),
                jnp.asarray(np.pad(y, ((0, 0), (0, padding))).reshape(len(y), blocks, _BLOCK)),
                jnp.asarray(len(x)),
                jnp.asarray(nodes),
                jnp.asarray(weights),
            )


def published_starts(
    truth: Float[np.ndarray, "_"], num_experts: int, num_examples: int, replicates: int, draw: np.random.Generator
) -> Float[np.ndarray, "R _"]:
    """Packed starts [R 5 E] beside the packed truth: every true expert is met, and the last fitted one is the last true one.

    One number is added to both entries of a gate, one to both of an expert, and the variance starts at the standard deviation, above it.
    Raises SpecError for fewer experts than the truth has.
    """
    rows = truth.reshape(-1, WIDTH)
    if num_experts < len(rows):
        raise SpecError(f"num_experts={num_experts} cannot meet all {len(rows)} true experts; fit at least as many.")
    owners = np.empty((replicates, num_experts), np.int64)
    for owner in owners:
        owner[:] = -1
        while len(np.unique(owner)) < len(rows) or owner[-1] < 0:
            owner[:-1] = draw.integers(len(rows), size=num_experts - 1)
            owner[-1] = len(rows) - 1
    starts = rows[owners].copy()
    gate, expert = (scale * num_examples**-0.083 * draw.standard_normal(owners.shape) for scale in (0.005, 0.05))
    gate[:, -1] = 0.0
    starts[..., [BIAS, KERNEL]] += gate[..., None]
    starts[..., [WEIGHT, SHIFT]] += expert[..., None]
    above = 0.005 * num_examples**-0.25 * np.abs(draw.standard_normal(owners.shape))
    starts[..., LOG_VARIANCE] = np.log(np.exp(starts[..., LOG_VARIANCE] / 2) + above)
    return starts.reshape(replicates, -1)


def gate_nodes(x: Float[np.ndarray, "_"]) -> tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"]]:
    """Nodes and weights with sum_q w_q f(x_q) = sum_i f(x_i) for every f that is smooth at the scale of a 32nd of the range of x.

    In each of 32 panels the sum of the polynomial through f at 12 Chebyshev nodes; few examples are their own nodes.
    """
    count = _PANELS * _DEGREE
    if len(x) <= count:
        padding = count - len(x)
        return np.pad(x, (0, padding)), np.pad(np.ones(len(x)), (0, padding))
    x = np.sort(x)
    edges = np.linspace(x[0], x[-1], _PANELS + 1)
    places = np.searchsorted(x, edges[1:-1])
    low, width = edges[:-1, None], float(edges[1] - edges[0])
    locals_ = (2 * (own - edge) / width - 1 for own, edge in zip(np.split(x, places), edges, strict=False))
    sums = np.stack([np.polynomial.chebyshev.chebvander(own, _DEGREE - 1).sum(axis=0) for own in locals_])
    points = np.polynomial.chebyshev.chebpts1(_DEGREE)
    weights = sums @ np.linalg.inv(np.polynomial.chebyshev.chebvander(points, _DEGREE - 1))
    nodes = low + width * (points[None] + 1) / 2
    return nodes.reshape(-1), weights.reshape(-1)


@functools.partial(jax.jit, static_argnums=0)
def _fit(em: EM, starts: Array, x: Array, y: Array, num_examples: Array, nodes: Array, weights: Array) -> EMFit:
    """One after the other: each stops by itself."""
    gates = jnp.stack([jnp.ones_like(nodes), nodes])  # what gates are linear in [2 Q]

    def one(start: Array, y: Array) -> EMFit:
        rows = start.reshape(-1, WIDTH)

        def unfinished(carry: tuple[Array, ...]) -> Array:
            _, _, iteration, converged = carry
            return ~converged & (iteration < em.iterations)

        def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
            rows, before, iteration, _ = carry
            joint, moments = _expectation(rows, x, y, num_examples)
            value = joint - weights @ jax.nn.logsumexp(rows[:, :2] @ gates, axis=0)
            gate = _gate_step(em, rows[:, :2], moments[:, :2], gates, weights)
            converged = jnp.abs((value - before) / before) <= em.tolerance
            return jnp.concatenate([gate, _expert_step(moments)], axis=1), value, iteration + 1, converged

        carry: tuple[Array, ...] = (rows, jnp.asarray(-jnp.inf, rows.dtype), jnp.asarray(0), jnp.asarray(False))
        rows, value, iteration, converged = jax.lax.while_loop(unfinished, step, carry)
        return EMFit(rows.reshape(-1), value / num_examples.astype(value.dtype), iteration, converged)

    return jax.lax.map(lambda pair: jax.lax.map(lambda start: one(start, pair[1]), pair[0]), (starts, y))


def _expectation(rows: Array, x: Array, y: Array, num_examples: Array) -> tuple[Array, Array]:
    """Sum of log sum_k exp(score_k) N_k, without the gates' normaliser, and sums [E 6] of owner * (1, x, y, x x, x y, y y)."""
    inverse = jnp.exp(-rows[:, LOG_VARIANCE])[:, None]
    constant = (rows[:, BIAS] - 0.5 * (math.log(2 * math.pi) + rows[:, LOG_VARIANCE]))[:, None]
    kernel, weight, shift = (rows[:, place, None] for place in (KERNEL, WEIGHT, SHIFT))

    def block(index: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row, column = x[index][None], y[index][None]
        inside = (index * _BLOCK + jnp.arange(_BLOCK) < num_examples)[None]
        off = column - weight * row - shift
        joint = constant + kernel * row - 0.5 * off * off * inverse
        top = jnp.max(joint, axis=0, keepdims=True)
        # Without the barrier every sum below would take the exponentials again.
        parts, top = jax.lax.optimization_barrier((jnp.exp(joint - top), top))
        total = jnp.sum(parts, axis=0, keepdims=True)
        products = jnp.prod(jnp.where(inside, total, 1.0).reshape(_GROUP, -1), axis=0)
        value = jnp.sum(jnp.where(inside, top, 0.0)) + jnp.sum(jnp.log(products))
        ones = inside.astype(row.dtype)
        features = jnp.concatenate([ones, row * ones, column * ones, row * row, row * column, column * column])
        return sums[0] + value, sums[1] + (parts * (1 / total)) @ features.T

    start = (jnp.zeros((), rows.dtype), jnp.zeros((len(rows), 6), rows.dtype))
    return jax.lax.fori_loop(0, (num_examples + _BLOCK - 1) // _BLOCK, block, start)


def _expert_step(moments: Array) -> Array:
    """Weighted least squares and the weighted variance of its residuals: [E 3]."""
    one, x, y, xx, xy, yy = moments.T
    across = xy - x * y / one
    weight = across / (xx - x * x / one)
    variance = (yy - y * y / one - weight * across) / one
    return jnp.stack([weight, (y - weight * x) / one, jnp.log(variance)], axis=1)


def _gate_step(em: EM, gate: Array, owned: Array, features: Array, weights: Array) -> Array:
    """Newton's method on the gates' criterion sum_ik owner_ik log gate_ik, the last expert's gate apart: [E 2]."""
    last = gate[-1:]
    size = 2 * (len(gate) - 1)

    def criterion(gate: Array) -> Array:
        return jnp.sum(owned * gate) - weights @ jax.nn.logsumexp(gate @ features, axis=0)

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        gate, value, scale, iteration, _ = carry
        open_ = jax.nn.softmax(gate @ features, axis=0)[:-1]
        weighted = open_ * weights[None]
        slope = owned[:-1] - weighted @ features.T
        rows = (open_[:, None] * features[None]).reshape(size, -1)
        squares = (features[:, None] * features[None]).reshape(4, -1)
        own = (weighted @ squares.T).reshape(-1, 2, 2)
        blocks = (jnp.eye(len(own))[:, None, :, None] * own[:, :, None, :]).reshape(size, size)
        bend = blocks - (rows * weights[None]) @ rows.T
        there = jnp.linalg.solve(bend + 1e-12 * jnp.trace(bend) * jnp.eye(size), slope.reshape(-1)).reshape(-1, 2)
        new = jnp.concatenate([gate[:-1] + scale * there, last])
        found = criterion(new)
        better = found >= value
        done = (better & (jnp.abs(found - value) <= em.tolerance * jnp.abs(value))) | (scale < 1e-6)
        kept = jnp.where(better, new, gate), jnp.where(better, found, value)
        return *kept, jnp.where(better, jnp.minimum(2 * scale, 1.0), scale / 2), iteration + 1, done

    carry: tuple[Array, ...] = (gate, criterion(gate), jnp.ones((), gate.dtype), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(lambda carry: ~carry[4] & (carry[3] < em.gate_iterations), step, carry)[0]
