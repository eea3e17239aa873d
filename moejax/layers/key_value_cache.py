"""Keys and values of the tokens of a sequence so far, in a ring of slots: position p lies in slot p mod C.

As many slots as the longest sequence hold all of it; as many as a sliding window hold what the window sees. Which position
a slot holds follows from the newest position alone, so that nothing but the tensors is stored.
Source: ours; the ring is the "rolling buffer cache" of Jiang et al. 2023, "Mistral 7B", section 2.
"""

from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class KeyValues:
    """key (rotated), value: [B H C d], C slots of every sequence and head."""

    key: Annotated[Any, Float[Array, "B H C d"]]
    value: Annotated[Any, Float[Array, "B H C d"]]


def slot_positions(newest: Int[Array, "B"], slots: int) -> Int[Array, "B C"]:
    """The position that each slot holds when position `newest` was the last to be written; negative: nothing yet."""
    slot = jnp.arange(slots, dtype=newest.dtype)[None]
    return newest[:, None] - (newest[:, None] - slot) % slots


def fill(x: Float[Array, "B H T d"], lengths: Int[Array, "B"], slots: int) -> Float[Array, "B H C d"]:
    """The ring after the first `lengths` tokens of each sequence; what slots hold that are not filled means nothing."""
    held = jnp.clip(slot_positions(lengths - 1, slots), 0, x.shape[2] - 1)
    return jnp.take_along_axis(x, held[:, None, :, None], axis=2)


def write(
    ring: Float[Array, "B H C d"], x: Float[Array, "B H 1 d"], positions: Int[Array, "B"]
) -> Float[Array, "B H C d"]:
    """The ring with one token more of every sequence."""

    def one(ring: Float[Array, "H C d"], x: Float[Array, "H 1 d"], slot: Int[Array, ""]) -> Float[Array, "H C d"]:
        return jax.lax.dynamic_update_slice_in_dim(ring, x, slot, axis=1)

    return jax.vmap(one)(ring, x, positions % ring.shape[2])
