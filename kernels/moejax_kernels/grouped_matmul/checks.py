"""What is refused before anything is computed, with the value, the limit and the way out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_group_sizes(group_sizes: Any, rows: int, experts: int) -> None:
    """Raises ValueError unless there are `experts` integer sizes; where they are concrete, none negative and at most `rows` in all.

    Under a trace the values are not known: then sizes are cut where they run over the rows, and negative ones count as 0.
    """
    if group_sizes.ndim != 1 or group_sizes.shape[0] != experts:
        raise ValueError(
            f"group_sizes has shape {group_sizes.shape}; w has {experts} groups, so it must be ({experts},)."
        )
    if not jnp.issubdtype(group_sizes.dtype, jnp.integer):
        raise ValueError(f"group_sizes has dtype {group_sizes.dtype}; rows are counted in integers.")
    if isinstance(group_sizes, jax.core.Tracer):
        return
    sizes = np.asarray(group_sizes, np.int64)
    if sizes.min(initial=0) < 0:
        raise ValueError(f"group_sizes[{sizes.argmin()}]={sizes.min()} is negative.")
    if sizes.sum() > rows:
        raise ValueError(f"group_sizes sum to {sizes.sum()}, more than the {rows} rows of x; drop rows or give x more.")


def check_floating(**operands: Any) -> jnp.dtype:
    """The dtype that all operands share. Raises ValueError for integers and for operands of different dtypes."""
    for name, operand in operands.items():
        if operand is not None and not jnp.issubdtype(operand.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {operand.dtype}; a product takes floating point: cast it first.")
    dtypes = {name: operand.dtype for name, operand in operands.items() if operand is not None}
    if len(set(dtypes.values())) > 1:
        told = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise ValueError(f"operands of different dtypes ({told}); cast them to one.")
    return next(iter(dtypes.values()))


def check_kernel(name: str, w: Any, x: Any, *, transposed: bool = False) -> None:
    """Raises ValueError unless x is [M D] and w [E D F] (transposed: [E F D]) with the same D."""
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; rows of groups are [M D].")
    axis, shape = (2, "[E F D]") if transposed else (1, "[E D F]")
    if w.ndim != 3:
        raise ValueError(f"{name} has shape {w.shape}; one kernel per group is {shape}.")
    if w.shape[axis] != x.shape[1]:
        raise ValueError(f"x {x.shape} has D={x.shape[1]}, but {name} {w.shape} has D={w.shape[axis]} (it is {shape}).")
