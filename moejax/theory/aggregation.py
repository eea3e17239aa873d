"""Mixtures fitted on shards, reduced to one: the mixture of few experts nearest in transport to all experts of all shards.

Every local expert of weight g_l(x), its gate times its shard's share, is moved to the reduced expert that is nearest in Kullback-Leibler
divergence at x; the reduced experts are then the best for what they got. Both steps lower the mean cost of the moves.
Source: Chamroukhi and Pham 2023 ("Distributed learning of mixtures of experts"), sections 3 and 4.
Deviations: gates are fitted to the plan's shares alone, where the authors' code multiplies them by densities of the supporting sample's
    responses, which reweights what the gates have said already. Local estimates start in the order of the first shard's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int
from scipy.special import softmax

_RIDGE = 1e-9  # keeps steps of the gates finite where an expert gets nothing


@struct.dataclass
class SoftmaxExperts:
    """Linear experts under a softmax gate, all affine in x: gate [D+1 E], its last column zero; expert [D+1 E]; variance [E]. The first
    row of both is the bias.
    """

    gate: Any
    expert: Any
    variance: Any


def affine(x: Float[np.ndarray, "S D"]) -> Float[np.ndarray, "S _"]:
    """With a one in front of every input."""
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def sample(
    params: SoftmaxExperts, inputs: Float[np.ndarray, "S _"], draw: np.random.Generator
) -> tuple[Float[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """Responses at affine inputs, and the expert that each is of."""
    expert = (draw.random((len(inputs), 1)) > np.cumsum(_gates(params, inputs), axis=1)[:, :-1]).sum(axis=1)
    mean = np.sum(inputs * np.asarray(params.expert).T[expert], axis=1)
    return mean + np.sqrt(np.asarray(params.variance))[expert] * draw.standard_normal(len(inputs)), expert


def fitted_gate(
    gate: Float[Array, "_ E"], inputs: Float[Array, "S _"], owners: Float[Array, "S E"], steps: int
) -> Float[Array, "_ E"]:
    """Newton's steps of a multinomial regression of `owners` (rows sum to one) on the inputs; the last column stays zero."""
    width, free = inputs.shape[1], gate.shape[1] - 1

    def one(_: Any, gate: Array) -> Array:
        shares = jax.nn.softmax(inputs @ gate)[:, :free]
        slope = inputs.T @ (owners[:, :free] - shares)
        spread = jnp.eye(free, dtype=shares.dtype)[None] * shares[:, :, None] - shares[:, :, None] * shares[:, None, :]
        bend = jnp.einsum("sd,sef,sc->edfc", inputs, spread, inputs).reshape(free * width, free * width)
        ridge = _RIDGE * len(inputs) * jnp.eye(free * width, dtype=bend.dtype)
        move = jnp.linalg.solve(bend + ridge, slope.T.reshape(-1)).reshape(free, width).T
        return gate.at[:, :free].add(move)

    return jax.lax.fori_loop(0, steps, one, gate)


def em_step(
    params: SoftmaxExperts, inputs: Float[Array, "S _"], y: Float[Array, "S"]
) -> tuple[SoftmaxExperts, Float[Array, ""]]:
    """One step of expectation maximisation, with one Newton step for the gates, and the log-likelihood per observation before it."""
    joint = jax.nn.log_softmax(inputs @ params.gate) + _log_normal(y[:, None] - inputs @ params.expert, params.variance)
    total = jax.nn.logsumexp(joint, axis=1)
    owners = jnp.exp(joint - total[:, None])
    gram = jnp.einsum("se,sd,sc->edc", owners, inputs, inputs)
    expert = jnp.linalg.solve(gram, jnp.einsum("se,sd,s->ed", owners, inputs, y)[..., None])[..., 0].T
    off = y[:, None] - inputs @ expert
    variance = jnp.sum(owners * off * off, axis=0) / jnp.sum(owners, axis=0)
    return SoftmaxExperts(fitted_gate(params.gate, inputs, owners, 1), expert, variance), jnp.mean(total)


@jax.jit
def local_fits(
    start: SoftmaxExperts, inputs: Float[Array, "M S _"], y: Float[Array, "M S"], steps: Any, tolerance: Any
) -> tuple[SoftmaxExperts, Int[Array, "M"], Bool[Array, "M"]]:
    """EM on each of M shards, until the log-likelihood changes by at most `tolerance` of itself: parameters with M in front, the steps
    taken [M], and whether it ended by tolerance [M].
    """

    def one(arrays: tuple[Any, Array, Array]) -> Any:
        start, inputs, y = arrays

        def unfinished(carry: tuple[Any, ...]) -> Array:
            _, before, last, count = carry
            return (count < steps) & ~(jnp.abs(last - before) <= tolerance * jnp.abs(last))

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            params, _, last, count = carry
            new, value = em_step(params, inputs, y)
            return new, last, value, count + 1

        low = jnp.asarray(-jnp.inf, y.dtype)
        params, before, last, count = jax.lax.while_loop(
            unfinished, body, (start, low, jnp.zeros_like(low), jnp.asarray(0))
        )
        return params, count, jnp.abs(last - before) <= tolerance * jnp.abs(last)

    return jax.lax.map(one, (start, inputs, y))


@functools.partial(jax.jit, static_argnames=("steps", "gate_steps"))
def reduced(
    local: SoftmaxExperts,
    start: SoftmaxExperts,
    inputs: Float[Array, "S _"],
    *,
    steps: int = 50,
    gate_steps: int = 30,
) -> tuple[SoftmaxExperts, Float[Array, "_"]]:
    """The reduced mixture, and the mean cost of the moves before every step, which never rises.

    local: of M shards of equal size, M in front. start: of the experts of the reduced mixture. inputs: affine, of a supporting sample.
    """
    shards, _, count = local.expert.shape
    shares = jax.nn.softmax(jnp.einsum("sd,mde->sme", inputs, local.gate)).reshape(len(inputs), -1) / shards
    mean = jnp.einsum("sd,mde->sme", inputs, local.expert).reshape(len(inputs), -1)
    spread = local.variance.reshape(-1)

    def plan(params: SoftmaxExperts) -> tuple[Array, Array]:
        """How much of every local expert goes to every reduced one at every input [S M*E E], and what it costs."""
        off = mean[:, :, None] - (inputs @ params.expert)[:, None, :]
        ratio = spread[:, None] / params.variance[None]
        cost = 0.5 * ((ratio - 1 - jnp.log(ratio))[None] + off * off / params.variance[None, None])
        nearest = jax.nn.one_hot(jnp.argmin(cost, axis=2), count, dtype=cost.dtype)
        return shares[:, :, None] * nearest, jnp.sum(shares * jnp.min(cost, axis=2)) / len(inputs)

    def one(params: SoftmaxExperts, _: Any) -> tuple[SoftmaxExperts, Array]:
        moved, cost = plan(params)
        mass = jnp.sum(moved, axis=1)
        gram = jnp.einsum("se,sd,sc->edc", mass, inputs, inputs)
        pulled = jnp.einsum("sle,sl,sd->ed", moved, mean, inputs)
        expert = jnp.linalg.solve(gram, pulled[..., None])[..., 0].T
        off = mean[:, :, None] - (inputs @ expert)[:, None, :]
        variance = jnp.sum(moved * (spread[None, :, None] + off * off), axis=(0, 1)) / jnp.sum(mass, axis=0)
        return SoftmaxExperts(params.gate, expert, variance), cost

    params, costs = jax.lax.scan(one, start, None, length=steps)
    moved, cost = plan(params)
    gate = fitted_gate(jnp.zeros_like(params.gate), inputs, jnp.sum(moved, axis=1), gate_steps)
    return SoftmaxExperts(gate, params.expert, params.variance), jnp.append(costs, cost)


def predicted(params: SoftmaxExperts, inputs: Float[np.ndarray, "S _"]) -> Float[np.ndarray, "S"]:
    """The mean response at affine inputs, on the host."""
    return np.sum(_gates(params, inputs) * (inputs @ np.asarray(params.expert)), axis=1)


def clusters(
    params: SoftmaxExperts, inputs: Float[np.ndarray, "S _"], y: Float[np.ndarray, "S"]
) -> Int[np.ndarray, "S"]:
    """The expert of every observation: the likeliest, given its input and its response."""
    variance, off = np.asarray(params.variance), y[:, None] - inputs @ np.asarray(params.expert)
    return np.argmax(_gates(params, inputs) * np.exp(-0.5 * off * off / variance) / np.sqrt(variance), axis=1)


def _gates(params: SoftmaxExperts, inputs: Float[np.ndarray, "S _"]) -> Float[np.ndarray, "S E"]:
    return softmax(inputs @ np.asarray(params.gate), axis=1)


def averaged(local: SoftmaxExperts) -> SoftmaxExperts:
    """The mean of all shards' parameters, expert by expert as each shard numbers them: what no one should do."""
    return jax.tree.map(lambda leaf: np.mean(np.asarray(leaf), axis=0), local)


def grouped(local: SoftmaxExperts, draw: np.random.Generator, *, tries: int = 10) -> SoftmaxExperts:
    """A start of the reduction: means of groups of the local experts by k-means, the best of `tries`; gates zero."""
    points = np.moveaxis(np.asarray(local.expert), 1, 2).reshape(-1, np.shape(local.expert)[1])
    spread, count = np.asarray(local.variance).reshape(-1), np.shape(local.variance)[1]
    best, own = np.inf, np.zeros(len(points), int)
    for _ in range(tries):
        centres = points[draw.choice(len(points), count, replace=False)]
        for _ in range(20):
            square = np.sum((points[:, None] - centres[None]) ** 2, axis=2)
            labels = np.argmin(square, axis=1)
            centres = np.stack(
                [points[labels == k].mean(axis=0) if np.any(labels == k) else centres[k] for k in range(count)]
            )
        if square.min(axis=1).sum() < best and len(np.unique(labels)) == count:
            best, own = square.min(axis=1).sum(), labels
    return SoftmaxExperts(
        gate=np.zeros((points.shape[1], count)),
        expert=np.stack([points[own == k].mean(axis=0) for k in range(count)], axis=1),
        variance=np.array([spread[own == k].mean() for k in range(count)]),
    )


def permuted(params: SoftmaxExperts, order: Any) -> SoftmaxExperts:
    """The same mixture with its experts in another order, the gate of the last one again zero. On the host."""
    gate = np.asarray(params.gate)[:, order]
    return SoftmaxExperts(gate - gate[:, -1:], np.asarray(params.expert)[:, order], np.asarray(params.variance)[order])


def _log_normal(off: Float[Array, "S E"], variance: Float[Array, "E"]) -> Float[Array, "S E"]:
    return -0.5 * (jnp.log(2 * jnp.pi * variance)[None] + off * off / variance[None])
