"""Sums over the rows of a layout, per expert, and a sample of them. All sums are float32 at least.

Source: ours.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from moejax_kernels.grouped_matmul import grouped_outer

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Sums:
    """Which sums are taken: fields of LeafStatistics that come from rows, and 'calls'. num_rows: sampled per call."""

    fields: tuple[str, ...]
    num_rows: int = 0


def buffer_sums(sums: Sums, x: Float[Array, "E C D"], real: Bool[Array, "E C"]) -> dict[str, Float[Array, "E ..."]]:
    """Over the rows of each buffer where `real`."""
    rows = jnp.where(real[:, :, None], x, jnp.zeros_like(x)).astype(jnp.float32)
    found = {}
    for name in sums.fields:
        if name == "calls":
            found[name] = jnp.ones((x.shape[0],), jnp.float32)
        elif name == "count":
            found[name] = jnp.sum(real.astype(jnp.float32), axis=1)
        elif name == "second_moment":
            found[name] = jnp.einsum("ECD,ECF->EDF", rows, rows, precision=_HIGHEST)
        elif name == "rows":
            place, kept = _choose(real, sums.num_rows)
            found[name] = _sample(jnp.take_along_axis(rows, place[:, :, None], axis=1), kept, sums.num_rows)
        else:
            found[name] = jnp.sum(_power(name, rows), axis=1)
    return found


def ragged_sums(sums: Sums, x: Float[Array, "M D"], sizes: Int[Array, "E"]) -> dict[str, Float[Array, "E ..."]]:
    """Over the rows of each group; those after the last belong to nobody."""
    num_experts, num_rows = sizes.shape[0], x.shape[0]
    rows = x.astype(jnp.float32)
    group = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(num_rows, dtype=sizes.dtype), side="right")
    real = jnp.any(x != 0, axis=-1)

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, group, num_segments=num_experts + 1, indices_are_sorted=True)[:num_experts]

    found = {}
    for name in sums.fields:
        if name == "calls":
            found[name] = jnp.ones((num_experts,), jnp.float32)
        elif name == "count":
            found[name] = total(real.astype(jnp.float32))
        elif name == "second_moment":
            found[name] = grouped_outer(rows, rows, sizes, precision=_HIGHEST)
        elif name == "rows":
            own = (group[None, :] == jnp.arange(num_experts, dtype=group.dtype)[:, None]) & real[None, :]
            place, kept = _choose(own, sums.num_rows)
            found[name] = _sample(jnp.take(rows, place, axis=0), kept, sums.num_rows)
        else:
            found[name] = total(_power(name, rows))
    return found


def _power(name: str, rows: Array) -> Array:
    return {"absolute": jnp.abs, "output_square": jnp.square, "output_sum": lambda y: y}[name](rows)


def _choose(real: Bool[Array, "E M"], num_rows: int) -> tuple[Int[Array, "E K"], Bool[Array, "E K"]]:
    """Places of at most `num_rows` real rows of each expert, and which of them are real: there may be fewer."""
    # One draw for every call: the data differ from call to call, their order within one call must not decide.
    draw = jax.random.uniform(jax.random.key(0), (real.shape[1],))
    urgency = jnp.where(real, jnp.broadcast_to(draw, real.shape), jnp.full(real.shape, -1.0, draw.dtype))
    place = jax.lax.top_k(urgency, min(num_rows, real.shape[1]))[1]
    return place, jnp.take_along_axis(real, place, axis=1)


def _sample(chosen: Float[Array, "E K D"], kept: Bool[Array, "E K"], num_rows: int) -> Float[Array, "E N D"]:
    """The chosen rows, with zeros in place of those that are not real, and up to the fixed number."""
    sample = jnp.where(kept[:, :, None], chosen, jnp.zeros_like(chosen))
    return jnp.pad(sample, ((0, 0), (0, num_rows - chosen.shape[1]), (0, 0)))
