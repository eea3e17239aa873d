"""Compressed Linen models run as they are: `nn.Dense` layers multiply with whatever leaf stands in the place of their kernel.

    with observing() as statistics:          # eagerly: what every nn.Dense reads
        model.apply(variables, x)
    small = compress(variables["params"], method="svd_llm", budget=0.5, statistics=statistics)
    with compressed():                       # under jit, grad and vmap, too
        y = model.apply({"params": small.params}, x)

Source: ours.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moejax.compress.statistics import LeafStatistics, from_rows
from moejax.core.errors import SpecError


@contextlib.contextmanager
def compressed() -> Iterator[None]:
    """Inside, every `nn.Dense` whose kernel is a leaf computes `leaf.matmul(x) + bias`; the others are as ever.

    Where a function is jitted, it must be traced inside: JAX remembers what it has traced.
    """
    with nn.intercept_methods(_multiply):
        yield


@contextlib.contextmanager
def observing(*, num_rows: int = 0) -> Iterator[dict[str, LeafStatistics]]:
    """Gives a dict that fills with statistics of the inputs of every `nn.Dense`, by the name of its kernel.

    num_rows: inputs to keep of every call, for methods that want rows themselves. Raises SpecError inside a traced function
    (jit, scan, vmap ...), which has no values to count.
    """
    found: dict[str, LeafStatistics] = {}

    def record(next_method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if _is_dense_call(context):
            x = _input(args, kwargs)
            name = "/".join((*context.module.path, "kernel"))
            if isinstance(x, jax.core.Tracer):
                raise SpecError(
                    f"{name}: there is nothing to observe while a function is traced; call the model without jit."
                )
            own = from_rows(np.asarray(x).reshape(-1, x.shape[-1]), num_rows=num_rows)
            found[name] = found[name].merge(own) if name in found else own
        return next_method(*args, **kwargs)

    with nn.intercept_methods(record):
        yield found


def _multiply(next_method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    leaf = context.module.get_variable("params", "kernel") if _is_dense_call(context) else None
    if leaf is None or not hasattr(leaf, "matmul") or not hasattr(leaf, "materialise"):
        return next_method(*args, **kwargs)
    x, module = jnp.asarray(_input(args, kwargs)), context.module
    dtype = module.dtype or jnp.result_type(x, *jax.tree.leaves(leaf))
    y: Array = leaf.matmul(x.astype(dtype))
    if not module.use_bias:
        return y
    bias = module.get_variable("params", "bias").astype(dtype)
    return y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))


def _is_dense_call(context: Any) -> bool:
    return isinstance(context.module, nn.Dense) and context.method_name == "__call__"


def _input(args: tuple, kwargs: dict) -> Any:
    return args[0] if args else kwargs["inputs"]
