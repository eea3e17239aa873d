"""FLOPs of the matrix products in a traced program, counted from their shapes."""

import numpy as np


def count_product_flops(jaxpr) -> int:
    """Of every `dot_general`, inner programs included; a multiply-add is two."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            contracted = equation.params["dimension_numbers"][0][0]
            total += 2 * int(np.prod(out)) * int(np.prod([left[axis] for axis in contracted]))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += count_product_flops(inner) if hasattr(inner, "eqns") else 0
    return total
