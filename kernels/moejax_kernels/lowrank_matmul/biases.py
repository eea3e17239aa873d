"""A bias as one more component of a pair of factors: [x, 1] [[u, 0], [0, 1]] [v; b] = x u v + b.

So every implementation has biases without knowing of them, and their gradients are those of a row of v.
Source: ours.
"""

import jax.numpy as jnp
from jaxtyping import Array

Factors = tuple[Array, Array]


def add_component(x: Array, factors: Factors, bias: Array, ranks: Array | None) -> tuple[Array, Factors, Array | None]:
    """Rows [M D+1], factors (u [E D+1 R+1], v [E R+1 F]) and ranks for the product with u [E D R], v [E R F] plus bias [E F].

    The new component is the first, so that ranks count it wherever they cut.
    """
    u, v = factors
    one = jnp.ones((x.shape[0], 1), x.dtype)
    wide = jnp.pad(u, ((0, 0), (0, 1), (1, 0))).at[:, -1, 0].set(jnp.ones((), u.dtype))
    tall = jnp.concatenate([bias[:, None, :], v], axis=1)
    return jnp.concatenate([x, one], axis=1), (wide, tall), None if ranks is None else ranks + jnp.ones_like(ranks)


def widen(factors: Factors) -> Factors:
    """The same product for rows with one more entry, which it does not read."""
    u, v = factors
    return jnp.pad(u, ((0, 0), (0, 1), (0, 0))), v


def add_to_heads(tokens: Array, factors: Array, bias: Array) -> Factors:
    """Rank-space tokens [B T R+1] and factors [H R+1 K] for tokens [B T R], factors [H R K] plus bias [H*K]."""
    own = bias.reshape(factors.shape[0], 1, factors.shape[2])
    one = jnp.ones((*tokens.shape[:2], 1), tokens.dtype)
    return jnp.concatenate([tokens, one], axis=2), jnp.concatenate([factors, own], axis=1)
