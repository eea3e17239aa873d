"""Activations in the primitives that a kernel for this backend can hold."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from moejax_kernels.activations import activate

_P = 0.3275911  # formula 7.1.26: erfc(z) = t (c1 + t (c2 + ...)) exp(-z^2) with t = 1 / (1 + P z), within 1.5e-7
_C = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _gelu_exact(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    t = 1.0 / (1.0 + (_P * 0.5**0.5) * size)
    series = jnp.full_like(x, _C[-1])
    for c in _C[-2::-1]:
        series = series * t + c
    return jnp.maximum(x, 0.0) - 0.5 * size * t * series * jnp.exp(-0.5 * x * x)


_OWN: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_exact": _gelu_exact,
    "relu": lambda x: jnp.maximum(x, 0.0),
    "silu": lambda x: x * lax.logistic(x),
}


def activate_in_kernel(x: jax.Array, name: str | None) -> jax.Array:
    """`activations.activate` on float32 values in registers.

    Source: ours; for 'gelu_exact' Abramowitz and Stegun 1964, formula 7.1.26. Deviations: the backend has no erf, so that
    one is an approximation, within 1e-6 of `jax.nn.gelu` (the rounding of bfloat16 is 4e-3 of the value).
    """
    return _OWN[name](x) if name in _OWN else activate(x, name)
