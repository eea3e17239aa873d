"""Chunk i of every device goes to device i: the one movement between devices behind `all_to_all`.

Source: flat, GShard (Lepikhin et al. 2020); in two levels, Tutel (Hwang et al. 2023), section 3.4, and HetuMoE (Nie et al. 2022),
    section 3.2; narrow numbers on the wire, MegaScale-MoE (Jin et al. 2025), section 5.
Deviations: int8 has one scale per row, the largest magnitude / 127; gradients travel in the same narrow type.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from moejax.exchange.contract import Devices

WIRE_DTYPES = ("bfloat16", "int8")


def swap(x: Shaped[Array, "_ ..."], devices: Devices, group: int | None = None) -> Shaped[Array, "_ ..."]:
    """y[i] of device j = x[j] of device i. Doing it twice undoes it; it is its own transpose.

    group: neighbours that first exchange among themselves, so that between groups each device sends one large chunk to each of
    n / group others instead of n small ones.
    """
    n = devices.size
    if n == 1:
        return x
    if group is None or group in (1, n):
        return jax.lax.all_to_all(x, devices.axis, 0, 0, tiled=True)
    groups = n // group
    neighbours = [[a * group + b for b in range(group)] for a in range(groups)]
    across = [[a * group + b for a in range(groups)] for b in range(group)]
    x = x.reshape(groups, group, *x.shape[1:])
    x = jax.lax.all_to_all(x, devices.axis, 1, 1, tiled=True, axis_index_groups=neighbours)
    x = jax.lax.all_to_all(x, devices.axis, 0, 0, tiled=True, axis_index_groups=across)
    return x.reshape(n, *x.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def narrow_swap(x: Float[Array, "_ ... D"], devices: Devices, group: int | None, wire: str) -> Float[Array, "_ ... D"]:
    """`swap` of numbers rounded to `wire`, in the dtype of x; gradients come back rounded alike."""
    if wire == "bfloat16":
        return swap(x.astype(jnp.bfloat16), devices, group).astype(x.dtype)
    wide = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1, keepdims=True) / 127
    code = jnp.round(wide / jnp.where(scale == 0, 1, scale)).astype(jnp.int8)
    code, scale = swap(code, devices, group), swap(scale, devices, group)
    return (code.astype(jnp.float32) * scale).astype(x.dtype)


def _narrow_forward(x, devices, group, wire):
    return narrow_swap(x, devices, group, wire), None


def _narrow_backward(devices, group, wire, _, dy):
    return (narrow_swap(dy, devices, group, wire),)


narrow_swap.defvjp(_narrow_forward, _narrow_backward)
