"""Writing a tile of values, of which only some rows belong to the block's group."""

import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from moejax_kernels.hopper.operands import swizzled


def store_rows(values: jax.Array, out: Any, first: Any, skip: Any, count: Any, column: Any) -> None:
    """Writes values[skip : skip + count] to out[first + skip : first + skip + count], from `column` on.

    The copy engine takes boxes of static height: the rows go as boxes of 2^i rows, one per bit of count (a whole tile of
    2^i rows is one box). Columns over the edge of out are dropped by the copy engine.
    """
    form = swizzled(out.dtype, rows=1)

    @functools.partial(pl.run_scoped, box=plgpu.SMEM(values.shape, out.dtype, transforms=form))
    def _(box: Any) -> None:
        box[...] = values.astype(out.dtype)
        plgpu.commit_smem()
        store_boxes(box, out, first, skip, count, column)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def store_boxes(box: Any, out: Any, first: Any, skip: Any, count: Any, column: Any) -> None:
    """Starts the copies of box[skip : skip + count], whose shared memory is laid out row by row."""
    height, width = box.shape
    rows = 1 << (height.bit_length() - 1)
    done = skip
    while rows:
        bit = count & rows

        @pl.when(bit != 0)
        def _(rows: int = rows, done: Any = done) -> None:
            plgpu.copy_smem_to_gmem(box.at[pl.ds(done, rows)], out.at[pl.ds(first + done, rows), pl.ds(column, width)])

        done = done + bit
        rows //= 2
