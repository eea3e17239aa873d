"""FLOPs of a function by walking its jaxpr: matrix products and convolutions, a multiply-add counted as two.

Nothing is computed or allocated. Sums, activations, softmax and norms are left out, as papers do.
"""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `function(*args)` for arrays or shapes.

    A scan counts its body times its length, a conditional its dearest branch, a while loop its body once.
    Source: ours.
    """
    return _walk(jax.make_jaxpr(function)(*args).jaxpr)


def _walk(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_general(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name.startswith("ragged_dot"):
        return _ragged_dot(equation)
    inner = [_walk(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> list[Any]:
    found = [value] if not isinstance(value, (tuple, list)) else value
    return [getattr(v, "jaxpr", v) for v in found if hasattr(getattr(v, "jaxpr", v), "eqns")]


def _dot_general(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * equation.outvars[0].aval.size * (kernel.size // outputs)


def _ragged_dot(equation: Any) -> int:
    # Rows [M D] by kernels [E D F]: each row meets one kernel.
    rows, kernel = equation.invars[0].aval, equation.invars[1].aval
    return 2 * rows.shape[0] * kernel.shape[-2] * kernel.shape[-1]
