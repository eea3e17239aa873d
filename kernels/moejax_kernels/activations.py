"""Element-wise functions that a product may end with, by name. All map 0 to 0, so that rows without a group stay zero."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def check_activation(name: str | None) -> None:
    """Raises ValueError for a name that is not in ACTIVATIONS; None (no activation) passes."""
    if name is not None and name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is not one of {', '.join(sorted(ACTIVATIONS))} (or None).")


def activate(x: Array, name: str | None) -> Array:
    """The activation of that name, element by element, in the dtype of x; x itself for None."""
    return x if name is None else ACTIVATIONS[name](x)
