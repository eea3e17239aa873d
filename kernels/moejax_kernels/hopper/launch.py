"""Starting a kernel: what is the same for all of them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from moejax_kernels import _compat
from moejax_kernels.manual_axes import vary_alike


def launch(
    body: Callable[..., None],
    operands: tuple[Array, ...],
    *,
    name: str,
    out: tuple[tuple[int, ...], Any],
    grid: dict[str, int],
    interpret: Any,
) -> Array:
    """The one output, (shape, dtype), of body(*operand_refs, out_ref) run by a warpgroup per point of the grid.

    The backend forgets which mesh axes of a shard_map its output varies over; it is cast to those of the operands.
    """
    operands = vary_alike(operands)
    kernel = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(*out),
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=_compat.gpu_interpreter(interpret),
    )
    return vary_alike((kernel(*operands), *operands))[0]
