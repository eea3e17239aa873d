"""From tokens to one vector per picture: the class token, the mean, or a learned query that attends to all."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.contracts import Experts
from moejax.core.rng import maybe_named, named
from moejax.core.spec import method
from moejax.layers.attention import Attention
from moejax.layers.feed_forward import FeedForward
from moejax.layers.norms import LayerNorm

_NORM = LayerNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionPooling:
    """A learned query attends to all tokens; a feed-forward layer with a residual follows.

    Source: the MAP head of Zhai et al. 2022, "Scaling Vision Transformers", section 2 (after Lee et al. 2019, "Set
        Transformer"): y = attention(query, x); y + mlp(norm(y)).
    """

    num_heads: int
    experts: Experts = method("experts")

    def init(self, key: PRNGKeyArray, dim: int) -> dict[str, Any]:
        """{'query': [1 1 D], 'attention', 'norm', 'feed_forward'}."""
        return {
            "query": jax.nn.initializers.xavier_uniform()(named(key, "query"), (1, 1, dim), jnp.float32),
            "attention": Attention(num_heads=self.num_heads).init(named(key, "attention"), dim),
            "norm": _NORM.init(dim),
            "feed_forward": FeedForward(experts=self.experts).init(named(key, "feed_forward"), dim),
        }

    def apply(
        self, params: dict[str, Any], x: Float[Array, "B T D"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B D"]:
        """One vector per sequence."""
        query = jnp.broadcast_to(params["query"].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        y = Attention(num_heads=self.num_heads).apply(params["attention"], query, context=x)
        feed_forward = FeedForward(experts=self.experts)
        hidden = _NORM.apply(params["norm"], y)
        y = y + feed_forward.apply(params["feed_forward"], hidden, key=maybe_named(key, "feed_forward"))
        return y[:, 0]
