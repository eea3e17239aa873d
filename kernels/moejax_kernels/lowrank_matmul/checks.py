"""What the low-rank entries refuse, with the value, the limit and the way out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_factors(name: str, factors: Any, depth: int, *, experts: int | None = None) -> None:
    """Raises ValueError unless `factors` is a pair u [D R], v [R F] (with `experts`: [E D R], [E R F]) and D is `depth`."""
    if not isinstance(factors, tuple | list) or len(factors) != 2:
        raise ValueError(f"{name} must be a pair of factors (u, v), not {type(factors).__name__}.")
    u, v = factors
    lead, told = ((), "u [D R], v [R F]") if experts is None else ((experts,), "u [E D R], v [E R F]")
    if u.ndim != len(lead) + 2 or v.ndim != len(lead) + 2:
        raise ValueError(f"{name} has shapes {u.shape} and {v.shape}; its factors are {told}.")
    if u.shape[:-2] != lead or v.shape[:-2] != lead:
        raise ValueError(f"{name} {u.shape}, {v.shape} must have E={experts} pairs of factors ({told}).")
    if u.shape[-2] != depth:
        raise ValueError(
            f"{name}: u {u.shape} takes D={u.shape[-2]}, but what it multiplies has {depth} columns ({told})."
        )
    if u.shape[-1] != v.shape[-2]:
        raise ValueError(f"{name}: u {u.shape} has rank {u.shape[-1]} and v {v.shape} rank {v.shape[-2]} ({told}).")


def check_ranks(name: str, ranks: Any, factors: Any) -> None:
    """Raises ValueError unless `ranks` is None or one integer per expert; where concrete, none below 0 or above R.

    Under a trace the values are not known: then a rank above R counts as R, and a negative one as 0.
    """
    if ranks is None:
        return
    experts, _, most = factors[0].shape
    if ranks.shape != (experts,):
        raise ValueError(
            f"{name} has shape {ranks.shape}; there are {experts} pairs of factors, so it must be ({experts},)."
        )
    if not jnp.issubdtype(ranks.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {ranks.dtype}; ranks are integers.")
    if isinstance(ranks, jax.core.Tracer):
        return
    values = np.asarray(ranks, np.int64)
    if values.min(initial=0) < 0:
        raise ValueError(f"{name}[{values.argmin()}]={values.min()} is negative; 0 is the least (no component).")
    if values.max(initial=0) > most:
        raise ValueError(
            f"{name}[{values.argmax()}]={values.max()} is more than the {most} components that are stored."
        )


def check_bias(name: str, bias: Any, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `bias` is None or of that shape."""
    if bias is not None and bias.shape != tuple(shape):
        raise ValueError(f"{name} has shape {bias.shape}; what it is added to needs {tuple(shape)}.")


def check_heads(num_heads: int, query: Any, key: Any, value: Any) -> None:
    """Raises ValueError unless query and key have one width and `num_heads` divides it and the width of value."""
    widths = {name: factors[1].shape[-1] for name, factors in (("query", query), ("key", key), ("value", value))}
    if widths["query"] != widths["key"]:
        raise ValueError(f"query has width {widths['query']} and key {widths['key']}; scores need one width for both.")
    for name, width in widths.items():
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"{name} has width {width}, which num_heads={num_heads} does not divide.")
