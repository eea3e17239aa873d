"""The transformer block of the first transformers: each branch is added first and normed after."""

import dataclasses
from typing import Any

from jaxtyping import Array, Bool, Float, PRNGKeyArray

from moejax.core.rng import named
from moejax.layers.attention import Attention
from moejax.layers.feed_forward import FeedForward
from moejax.layers.norms import LayerNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostNormBlock:
    """y = norm(x + attention(x)), then norm(y + feed_forward(y)). epsilon: of both norms.

    Source: Vaswani et al. 2017, section 3.1; Devlin et al. 2019, "BERT" (epsilon 1e-12).
    Deviations: no dropout on the branches.
    """

    attention: Attention
    feed_forward: FeedForward
    epsilon: float = 1e-12

    def init(self, key: PRNGKeyArray, dim: int) -> dict[str, Any]:
        """Parameters {'attention', 'norm_1', 'feed_forward', 'norm_2'}."""
        return {
            "attention": self.attention.init(named(key, "attention"), dim),
            "norm_1": self._norm.init(dim),
            "feed_forward": self.feed_forward.init(named(key, "feed_forward"), dim),
            "norm_2": self._norm.init(dim),
        }

    def apply(
        self, params: dict[str, Any], x: Float[Array, "B T D"], *, mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """The block's output; tokens whose `mask` is false are seen by nobody."""
        attended = self.attention.apply(params["attention"], x, mask=mask)
        x = self._norm.apply(params["norm_1"], x + attended)
        mixed = self.feed_forward.apply(params["feed_forward"], x)
        return self._norm.apply(params["norm_2"], x + mixed)

    @property
    def _norm(self) -> LayerNorm:
        return LayerNorm(epsilon=self.epsilon)
