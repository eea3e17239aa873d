"""What the benchmarks time of a function: itself, or itself with its gradients."""

from collections.abc import Callable
from typing import Any

import jax


def compiled(function: Callable[..., jax.Array], kind: str, *operands: Any) -> Any:
    """The compiled pass; 'forward+backward' gives the gradients in every operand beside the value, which it pulls back."""

    def both(*operands: Any) -> Any:
        y, pullback = jax.vjp(function, *operands)
        return y, *pullback(y)

    return jax.jit(function if kind == "forward" else both).lower(*operands).compile()
