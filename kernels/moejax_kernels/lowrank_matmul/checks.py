"""What the low-rank entries refuse, with the value, the limit and the way out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax_kernels.activations import check_activation
from moejax_kernels.grouped_matmul.checks import check_floating


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


def check_ffn(
    x: Any, up: Any, gate: Any, down: Any, up_bias: Any, ranks: Any, experts: int, activation: str | None
) -> jnp.dtype:
    """The dtype of all operands of a low-rank FFN whose rows [... D] have E groups. ranks: of up, gate and down.

    Raises ValueError for what does not fit.
    """
    check_factors("up", up, x.shape[-1], experts=experts)
    check_factors("down", down, up[1].shape[2], experts=experts)
    up_ranks, gate_ranks, down_ranks = ranks
    if gate is not None:
        check_factors("gate", gate, x.shape[-1], experts=experts)
        check_ranks("gate_ranks", gate_ranks, gate)
        if gate[1].shape[2] != up[1].shape[2]:
            raise ValueError(
                f"gate is {gate[1].shape[2]} wide and up {up[1].shape[2]}; they are multiplied, so make them one."
            )
    elif gate_ranks is not None:
        raise ValueError("gate_ranks is given and gate is not; leave it out or pass a gate.")
    check_ranks("up_ranks", up_ranks, up)
    check_ranks("down_ranks", down_ranks, down)
    check_activation(activation)
    check_bias("up_bias", up_bias, (experts, up[1].shape[2]))
    operands = {"up": up, "gate": gate, "down": down}
    named = {f"{name} {side}": f for name, pair in operands.items() if pair for side, f in zip("uv", pair, strict=True)}
    return check_floating(x=x, **named, **({} if up_bias is None else {"up_bias": up_bias}))


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
