"""The compiler finds the way: buffers are said to lie over the devices of their experts, and the rest is up to it.

Source: GShard (Lepikhin et al. 2020), section 3.3, annotations.
"""

import dataclasses
from typing import Any, ClassVar

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout
from moejax.core.plans import ExpertChoice, Plan, SlotMix, TokenChoice
from moejax.dispatch import strategies
from moejax.dispatch.buffers import Apply
from moejax.exchange.on_devices import mesh_in_force

SLOTS = PartitionSpec("expert", ("data", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
    """For strategies with buffers, `einsum` and `gather`; the sort of `ragged` would go over all devices."""

    plans: ClassVar[tuple[type, ...]] = (TokenChoice, ExpertChoice, SlotMix)

    def dispatch(
        self, strategy: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply
    ) -> Float[Array, "G S F"]:
        """Raises SpecError on a mesh for a strategy without buffers."""
        if mesh_in_force() is None:
            return strategies.dispatch(strategy, plan, x, params, apply)

        def there(params: Any, layout: Layout) -> Layout:
            if not isinstance(layout, Buffers):
                raise SpecError(
                    "exchange 'constraints' moves buffers, but this plan has none; use dispatch='einsum' or 'gather', or "
                    "exchange 'all_to_all'."
                )
            placed = Buffers(jax.lax.with_sharding_constraint(layout.tokens, SLOTS))
            return Buffers(jax.lax.with_sharding_constraint(apply(params, placed).tokens, SLOTS))

        return strategies.dispatch(strategy, plan, x, params, there)


EXAMPLES = (Constraints(),)
