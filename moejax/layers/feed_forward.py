"""A dense feed-forward layer: any expert bank, with one expert and no router.

Source: ours.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.contracts import Experts
from moejax.core.layouts import Buffers
from moejax.core.spec import method


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForward:
    """experts: the bank whose single expert every token passes. Parameters carry no expert axis."""

    experts: Experts = method("experts")

    def init(self, key: PRNGKeyArray, dim: int) -> Any:
        """Parameters for tokens of width `dim`."""
        return jax.tree.map(lambda leaf: leaf[0], self.experts.init(key, 1, dim))

    def apply(self, params: Any, x: Float[Array, "B T D"], *, key: PRNGKeyArray | None = None) -> Float[Array, "B T D"]:
        """Every token through the one expert."""
        bank = jax.tree.map(lambda leaf: leaf[None], params)
        tokens = x.reshape(1, -1, x.shape[-1])
        return self.experts.apply(bank, Buffers(tokens), key=key).tokens.reshape(x.shape)
