"""Choices that find their expert full, at inference: the best are kept, the others given up or sent to experts with room.

Source: He et al. 2025, "Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts": token drop by score, and
    the rerouting of its first version.
Deviations: tokens offer their next best expert in turn and an expert takes the best offers, an order of ours. All experts of the group
    are asked; the later version of the paper (expanded drop) asks some of the same device. Gates are not normalised anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Fitted(NamedTuple):
    """Choices of which no expert gets more than its capacity; -1, with weight 0, where one is given up."""

    expert: Int[Array, "G S K"]
    weight: Float[Array, "G S K"]
    metrics: dict[str, Float[Array, ""]]


def fit_to_capacity(
    expert: Int[Array, "G S K"],
    weight: Float[Array, "G S K"],
    gates: Float[Array, "G S E"],
    ranking: Float[Array, "G S E"],
    capacity: int,
    *,
    reroute: bool,
) -> Fitted:
    """Every expert of a group keeps its `capacity` choices of largest weight; of the others some find a new expert, if `reroute`.

    gates: the weight that each expert would have. ranking: in which order a token prefers experts, best largest.
    metrics: 'overflow', the fraction of choices above capacity; 'rerouted', of choices that another expert serves;
        'kept_gate', the sum of served weights over that of all weights wanted.
    No gradient flows through the decision.
    """
    choices = (expert.shape[0], expert.shape[1] * expert.shape[2])
    best = jax.lax.stop_gradient(weight).reshape(choices)
    kept = (rank_in_expert(expert.reshape(choices), best) < capacity).reshape(expert.shape) & (expert >= 0)
    fitted = jnp.where(kept, expert, -1)
    if reroute and expert.shape[2] < gates.shape[2]:
        fitted = _find_room(expert, kept, jax.lax.stop_gradient(ranking), capacity)
    moved = (fitted >= 0) & ~kept
    other = jnp.take_along_axis(gates, jnp.maximum(fitted, 0), axis=-1)
    served = jnp.where(kept, weight, jnp.where(moved, other, jnp.zeros_like(other)))
    metrics = {
        "overflow": jnp.mean((~kept & (expert >= 0)).astype(jnp.float32)),
        "rerouted": jnp.mean(moved.astype(jnp.float32)),
        "kept_gate": jnp.sum(served) / jnp.maximum(jnp.sum(weight), jnp.finfo(jnp.float32).tiny),
    }
    return Fitted(fitted, served, jax.lax.stop_gradient(metrics))


def rank_in_expert(expert: Int[Array, "G M"], score: Float[Array, "G M"]) -> Int[Array, "G M"]:
    """How many choices of the same expert and group have a higher score; of equal ones the first in place comes first."""
    order = jnp.lexsort((-score, expert), axis=-1)
    runs = jnp.take_along_axis(expert, order, axis=1)
    index = jnp.broadcast_to(jnp.arange(expert.shape[1], dtype=jnp.int32)[None], expert.shape)
    starts = jnp.concatenate([jnp.ones_like(runs[:, :1], bool), runs[:, 1:] != runs[:, :-1]], axis=1)
    rank = index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return jnp.put_along_axis(jnp.zeros_like(rank), order, rank, axis=1, inplace=False)


def _find_room(
    expert: Int[Array, "G S K"], kept: Bool[Array, "G S K"], ranking: Float[Array, "G S E"], capacity: int
) -> Int[Array, "G S K"]:
    """In round i every token with a choice left over offers it to the i-th best expert that it has not chosen.

    An expert takes the offers that rank it highest while it has room; so a token never gets one expert twice, and no kept
    choice is displaced.
    """
    groups, _, choices = expert.shape
    experts = ranking.shape[2]
    group = jnp.arange(groups)[:, None]
    chosen = jnp.any(jax.nn.one_hot(expert, experts, dtype=jnp.bool_), axis=2)
    others = jnp.argsort(-jnp.where(chosen, -jnp.inf, ranking), axis=-1, stable=True).astype(jnp.int32)

    def counted(target: Array, taken: Array) -> Array:
        return jnp.zeros((groups, experts), jnp.int32).at[group, target].add(taken.astype(jnp.int32), mode="drop")

    def offer(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fitted, left, room = carry
        first = left & (jnp.cumsum(left, axis=-1) == 1)
        offers = jnp.any(first, axis=-1)
        target = jnp.where(offers, jax.lax.dynamic_index_in_dim(others, i, axis=2, keepdims=False), experts)
        score = jnp.take_along_axis(ranking, jnp.minimum(target, experts - 1)[:, :, None], axis=2)[:, :, 0]
        free = jnp.take_along_axis(room, jnp.minimum(target, experts - 1), axis=1)
        taken = offers & (rank_in_expert(target, score) < free)
        fitted = jnp.where(first & taken[:, :, None], target[:, :, None], fitted)
        return fitted, left & ~(first & taken[:, :, None]), room - counted(target, taken)

    flat = expert.reshape(groups, -1)
    room = capacity - counted(jnp.where(flat >= 0, flat, experts), kept.reshape(groups, -1))
    start = (jnp.where(kept, expert, -1), ~kept & (expert >= 0), room)
    return jax.lax.fori_loop(0, experts - choices, offer, start)[0]
