"""Optimal transport between the tokens of a group and the experts, for routers that balance by it.

A plan [G S E] sends mass one from every token and S / E to every expert.
Source: Liu et al. 2024, "Routers in Vision Mixture of Experts: An Empirical Study" (which scores to balance and how).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sinkhorn_plan(
    logits: Float[Array, "G S E"], *, temperature: float = 1.0, num_iterations: int = 20
) -> Float[Array, "G S E"]:
    """The entropy-regularised plan: exp(logits / temperature), rows and columns scaled in turn, in the log domain.

    Rows are scaled last: they sum to one exactly, columns to S / E as far as the iterations have converged.
    Source: Cuturi 2013, algorithm 1.
    """
    num_tokens, num_experts = logits.shape[1:]
    log_plan = logits / temperature

    def scale(log_plan: Float[Array, "G S E"], _: None) -> tuple[Float[Array, "G S E"], None]:
        columns = jax.nn.logsumexp(log_plan, axis=1, keepdims=True) - jnp.log(num_tokens / num_experts)
        log_plan = log_plan - columns
        return log_plan - jax.nn.logsumexp(log_plan, axis=2, keepdims=True), None

    return jnp.exp(jax.lax.scan(scale, log_plan, None, length=num_iterations)[0])


def project_sparse_simplex(x: Float[Array, "... S"], num_nonzero: int) -> Float[Array, "... S"]:
    """The nearest probability vector with at most `num_nonzero` entries above zero.

    The largest entries are kept and projected onto the simplex: max(x - t, 0) with t such that they sum to one.
    Source: Kyrillidis et al. 2013, "Sparse projections onto the simplex", algorithm 1.
    """
    best, index = jax.lax.top_k(x, num_nonzero)
    count = jnp.arange(1, num_nonzero + 1).astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    thresholds = (jnp.cumsum(best, axis=-1) - 1.0) / count
    # best - thresholds is above zero for a prefix of the sorted entries; its last threshold is the right one.
    last = jnp.sum(best > thresholds, axis=-1, keepdims=True) - 1
    kept = jnp.maximum(best - jnp.take_along_axis(thresholds, last, axis=-1), 0.0)
    return jnp.put_along_axis(jnp.zeros_like(x), index, kept, axis=-1, inplace=False)


def sparse_plan(
    similarity: Float[Array, "G S E"],
    *,
    num_nonzero: int,
    regularization: float = 1.0,
    num_iterations: int = 20,
    learning_rate: float = 1e-2,
) -> tuple[Float[Array, "G S E"], Float[Array, "G S"]]:
    """A plan with at most `num_nonzero` tokens per expert, and the price (dual variable) of every token.

    Adam on the semi-dual of transport with a squared-norm penalty: tokens that are in less demand than one rise in price,
    and expert e takes the simplex projection of (similarity + price) / (regularization S / E) over its best tokens.
    Columns sum to S / E exactly; rows come near one as the iterations converge, nearer the more entries an expert may have
    (with few the problem is not convex). No gradient flows.
    Source: Liu et al. 2023, "Sparsity-Constrained Optimal Transport", section 4 (semi-dual), as used by Liu et al. 2024.
    """
    similarity = jax.lax.stop_gradient(similarity)
    num_tokens, num_experts = similarity.shape[1:]
    mass = num_tokens / num_experts

    def plan(price: Float[Array, "G S"]) -> Float[Array, "G S E"]:
        scores = (similarity + price[:, :, None]).swapaxes(1, 2) / (regularization * mass)
        return mass * project_sparse_simplex(scores, num_nonzero).swapaxes(1, 2)

    def step(carry: tuple, i: Array) -> tuple[tuple, None]:
        price, first, second = carry
        gradient = plan(price).sum(axis=2) - 1.0
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * jnp.square(gradient)
        time = (i + 1).astype(jnp.float32)
        update = (first / (1.0 - 0.9**time)) / (jnp.sqrt(second / (1.0 - 0.999**time)) + 1e-8)
        return (price - learning_rate * update, first, second), None

    zeros = jnp.zeros(similarity.shape[:2], similarity.dtype)
    (price, _, _), _ = jax.lax.scan(step, (zeros, zeros, zeros), jnp.arange(num_iterations))
    return plan(price), price
