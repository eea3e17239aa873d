"""Shared bases fitted to the kernels of a bank: where they start, Adam on the squared error, and the last exact step.

Source: MoBE, the fit; the start is ours.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from moejax.compress.expert_bank import HostBank
from moejax.compress.leading_directions import leading_directions
from moejax.compress.output_clusters import cluster
from moejax.linear.shared_basis import FUNCTIONS, SharedBasis

SMALL = 0.1  # largest entry of a basis at the start; there f is nearly linear
SKETCH = 256
LARGE = 2**22  # entries of a kernel from which on its products are taken in float32
OWN_GROUP = 4.0  # logit of an expert's own basis at the start; of the others 0


def start_bases(host: HostBank, name: str, side: str, num_bases: int, rank: int, function: str) -> SharedBasis:
    """Bases whose convex mixtures are the leading singular vectors of each group of experts, as if f were linear.

    The experts' own factors are the exact least squares for them. Arrays are float32; a softmax makes alpha convex.
    """
    index = cluster(_subspace_cosines(host, name, side), num_bases, first=0)
    members = [np.flatnonzero(np.asarray(index) == group) for group in range(num_bases)]
    leading = np.stack([leading_directions(_kernels(host, name, side, group), rank) for group in members])
    logits = OWN_GROUP * np.eye(num_bases)
    convex = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    bases = np.einsum("ij,jlr->ilr", np.linalg.inv(convex), leading)
    bases *= SMALL / max(np.abs(bases).max(), np.finfo(float).tiny)
    basis = jnp.asarray((bases if side == "input" else bases.swapaxes(1, 2)).astype(np.float32))
    alpha = jnp.asarray(logits[list(index)].astype(np.float32))
    narrow = min(host.kernels[name].shape[1:])
    shape = (host.num_experts, rank, narrow) if side == "input" else (host.num_experts, narrow, rank)
    leaf = SharedBasis(jnp.zeros(shape, jnp.float32), alpha, basis, function=function, side=side, convex=True)
    return _with_exact_own(host, name, leaf)


def fit_bases(
    host: HostBank, name: str, start: SharedBasis, *, scale: float, steps: int, learning_rate: float
) -> SharedBasis:
    """The start, or what `steps` of Adam on the mean squared error of kernels / scale made of it where that is better."""
    if not steps:
        return start
    target = jnp.asarray(host.arrays[name])
    moved = _adam(
        dataclasses.replace(start, own=start.own / jnp.float32(scale)), target, jnp.float32(scale), steps, learning_rate
    )
    moved = _with_exact_own(host, name, moved)
    return min((start, moved), key=lambda leaf: squared_error(host, name, leaf))


def squared_error(host: HostBank, name: str, leaf: SharedBasis) -> float:
    """Of all kernels, the sum in float64; infinite where the leaf is not finite."""
    mixture, own = np.asarray(leaf.mixture()), np.asarray(leaf.own)
    total = 0.0
    for expert in range(host.num_experts):
        kernel = host.kernel(name, expert)
        dtype = products_dtype(kernel)
        pair = mixture[expert].astype(dtype), own[expert].astype(dtype)
        factors = pair if leaf.side == "input" else pair[::-1]
        kernel -= factors[0] @ factors[1]
        total += float(np.vdot(kernel, kernel))
    return total if np.isfinite(total) else np.inf


def products_dtype(kernel: Float[np.ndarray, "D F"]) -> type[np.floating[Any]]:
    """In which products with a kernel of this size are taken."""
    return np.float64 if kernel.size < LARGE else np.float32


def _tall(host: HostBank, name: str, expert: int, side: str) -> Float[np.ndarray, "D F"]:
    """The kernel with the side of the bases first."""
    kernel = host.kernel(name, expert)
    return kernel if side == "input" else kernel.T


def _subspace_cosines(host: HostBank, name: str, side: str) -> Float[np.ndarray, "E E"]:
    """How much the column spaces of each two experts' kernels overlap: ||W_i^T W_j||^2, normalised; zero for zero kernels.

    Of kernels with many columns, as many random mixtures of them as SKETCH.
    """
    experts = host.num_experts
    narrow = min(host.kernels[name].shape[1:])
    mixing = np.eye(narrow) if narrow <= SKETCH else np.random.default_rng(0).standard_normal((narrow, SKETCH))
    tall = [_tall(host, name, expert, side) @ mixing for expert in range(experts)]
    overlap = np.array([[np.sum((own.T @ other) ** 2) for other in tall] for own in tall])
    length = np.sqrt(np.diagonal(overlap))
    inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return overlap * inverse[:, None] * inverse[None, :]


def _kernels(host: HostBank, name: str, side: str, experts: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """Of these experts, one after the other."""
    return lambda: (_tall(host, name, int(expert), side) for expert in experts)


def _with_exact_own(host: HostBank, name: str, leaf: SharedBasis) -> SharedBasis:
    """The leaf with the least-squares factors for its mixtures; the least of them where they are not unique."""
    mixture = np.asarray(leaf.mixture())
    if not np.all(np.isfinite(mixture)):
        return leaf
    own = []
    for expert in range(host.num_experts):
        tall = (mixture[expert] if leaf.side == "input" else mixture[expert].T).astype(np.float64)
        solved = _least_squares(tall, _tall(host, name, expert, leaf.side))
        own.append((solved if leaf.side == "input" else solved.T).astype(np.float32))
    return dataclasses.replace(leaf, own=jnp.asarray(np.stack(own)))


def _least_squares(basis: Float[np.ndarray, "D R"], target: Float[np.ndarray, "D F"]) -> Float[np.ndarray, "R F"]:
    """The least x of those with the least ||basis x - target||, by the normal equations; R is small beside D and F.

    Directions below 1e-6 of the largest are left out.
    """
    dtype = products_dtype(target)
    values, vectors = np.linalg.eigh(basis.T @ basis)
    seen = values > 1e-12 * max(values[-1], 0.0)
    inverse = (vectors[:, seen] / values[seen]) @ vectors[:, seen].T
    return inverse.astype(dtype) @ (basis.T.astype(dtype) @ target.astype(dtype))


@functools.partial(jax.jit, static_argnames=("steps", "learning_rate"))
def _adam(
    start: SharedBasis, target: Float[Array, "E D F"], scale: Float[Array, ""], steps: int, learning_rate: float
) -> SharedBasis:
    """`steps` of Adam with a rate that falls to zero as a cosine, in units of each array's own size; the best step.

    The target counts divided by the scale.
    """
    names = ("own", "alpha", "basis")
    first = {name: getattr(start, name) for name in names}
    size = {name: jnp.sqrt(jnp.mean(array**2)) + jnp.float32(1e-12) for name, array in first.items()}
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(values: dict[str, Array]) -> Array:
        return _mean_square(
            dataclasses.replace(start, **{name: values[name] * size[name] for name in names}), target, scale
        )

    def step(carry: Any, _: None) -> tuple[Any, None]:
        values, state, best, least = carry
        error, gradient = jax.value_and_grad(loss)(values)
        best = jax.tree.map(lambda new, old: jnp.where(error < least, new, old), values, best)
        updates, state = optimiser.update(gradient, state, values)
        return (optax.apply_updates(values, updates), state, best, jnp.minimum(error, least)), None

    values = {name: array / size[name] for name, array in first.items()}
    carry = (values, optimiser.init(values), values, jnp.float32(jnp.inf))
    (last, _, best, least), _ = jax.lax.scan(step, carry, None, length=steps)
    best = jax.tree.map(lambda new, old: jnp.where(loss(last) < least, new, old), last, best)
    return dataclasses.replace(start, **{name: best[name] * size[name] for name in names})


def _mean_square(leaf: SharedBasis, target: Float[Array, "E D F"], scale: Float[Array, ""]) -> Float[Array, ""]:
    """Expert by expert, so that one reconstruction at a time is in memory."""

    @jax.checkpoint
    def one(expert: tuple[Array, Array, Array]) -> Array:
        own, alpha, wanted = expert
        mixture = FUNCTIONS[leaf.function](jnp.einsum("N,Nij->ij", jax.nn.softmax(alpha), leaf.basis))
        found = mixture @ own if leaf.side == "input" else own @ mixture
        return jnp.mean((found - wanted.astype(found.dtype) / scale) ** 2)

    return jnp.mean(jax.lax.map(one, (leaf.own, leaf.alpha, target)))
