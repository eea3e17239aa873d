"""What every router reports of its decisions: load, entropy, margin. No gradient flows from them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def choice_load(expert: Int[Array, "..."], num_experts: int) -> Float[Array, "E"]:
    """Fraction of all choices that go to each expert; choices of -1 do not count. Sums to one.

    Source: ours.
    """
    counts = jax.nn.one_hot(expert.reshape(-1), num_experts, dtype=jnp.float32).sum(axis=0)
    return counts / jnp.maximum(counts.sum(), 1.0)


def entropy(probs: Float[Array, "... E"]) -> Float[Array, ""]:
    """Mean entropy over all rows, in nats: 0 when every row is one-hot, log E when uniform."""
    return jnp.mean(jax.scipy.special.entr(probs).sum(axis=-1))


def margin(scores: Float[Array, "... E"]) -> Float[Array, ""]:
    """Mean gap between the best and the second-best score of a row. Needs E >= 2."""
    best = jax.lax.top_k(scores, 2)[0]
    return jnp.mean(best[..., 0] - best[..., 1])


def router_metrics(probs: Float[Array, "... E"], load: Float[Array, "E"]) -> dict[str, Float[Array, "..."]]:
    """'load' [E], 'entropy', and (for E >= 2) 'margin' of the distribution `probs` over experts, without gradient."""
    metrics = {"load": load, "entropy": entropy(probs)}
    if probs.shape[-1] > 1:
        metrics["margin"] = margin(probs)
    return jax.lax.stop_gradient(metrics)
