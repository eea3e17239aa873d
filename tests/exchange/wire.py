"""What travels between devices, counted in a jaxpr."""

import math
from collections import Counter

import jax

MOVES = ("all_to_all", "all_gather", "reduce_scatter", "psum_scatter", "ppermute")


def sent(function, *args):
    """(primitive, mesh axis) -> bytes of its operands on one device, over all its calls."""
    found = Counter()
    _count(jax.make_jaxpr(function)(*args).jaxpr, found)
    return dict(found)


def _count(jaxpr, found):
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in MOVES:
            axis = equation.params.get("axis_name")
            axis = axis[0] if isinstance(axis, tuple) else axis
            array = equation.invars[0].aval
            found[name, axis] += math.prod(array.shape) * array.dtype.itemsize
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    _count(inner, found)
