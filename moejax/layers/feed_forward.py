"""A dense feed-forward layer: any expert bank, with one expert and no router.

Source: ours.
"""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.contracts import Experts, enter, leave
from moejax.core.layouts import Buffers
from moejax.core.spec import method
from moejax.linear.expert_axis import add_expert_axis, drop_expert_axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForward:
    """experts: the bank whose single expert every token passes. Parameters carry no expert axis."""

    experts: Experts = method("experts")

    def init(self, key: PRNGKeyArray, dim: int) -> Any:
        """Parameters for tokens of width `dim`."""
        return drop_expert_axis(self.experts.init(key, 1, dim))

    def apply(self, params: Any, x: Float[Array, "B T D"], *, key: PRNGKeyArray | None = None) -> Float[Array, "B T D"]:
        """Every token through the one expert."""
        bank = add_expert_axis(params)
        tokens = enter(self.experts, bank, x.reshape(1, -1, x.shape[-1]))
        out = self.experts.apply(bank, Buffers(tokens), key=key).tokens
        return leave(self.experts, bank, out).reshape(x.shape)
