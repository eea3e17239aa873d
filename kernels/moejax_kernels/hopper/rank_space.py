"""The two halves of a product with factors u [D R] and v [R F], whose middle [rows R] lives in shared memory.

The middle is held in pieces of `piece` components, [R / piece, rows, piece], so that a group may use only as many of them as
its rank needs. Source: ours.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from moejax_kernels.hopper.limits import ACCUMULATORS, THREADS, Tiling
from moejax_kernels.hopper.operands import swizzled
from moejax_kernels.hopper.row_tiles import ALIGNED


def piece_of(rank: int, rows: int) -> int:
    """Components that are computed at once: the most that divides the (padded) rank and stays in registers."""
    return next(p for p in (192, 128, 64) if rank % p == 0 and rows * p <= ACCUMULATORS * THREADS)


def pieces_of_groups(ranks: Array | None, groups: int, rank: int, rows: int) -> Array:
    """Pieces of rank space that each group needs [E + 1], int32; none for the rows after the last group."""
    piece = piece_of(rank, rows)
    held = jnp.full((groups,), rank, jnp.int32) if ranks is None else ranks.astype(jnp.int32)
    return jnp.pad(-(-held // piece), (0, 1))


def middle_of(rank: int, rows: int, dtype: Any) -> Any:
    """Shared memory for the middle of `rows` rows."""
    piece = piece_of(rank, rows)
    return plgpu.SMEM((rank // piece, rows, piece), dtype, transforms=swizzled(dtype))


def into(middle: Any, x: Any, u: Any, place: Any, pieces: Any, tile: Tiling) -> None:
    """Middle = x u for the rows from 8 place on, the first `pieces` pieces of it; u [D R]."""
    _, rows, piece = middle.shape
    form = swizzled(middle.dtype)

    def one(at: Any, _: None) -> None:
        def scope(total: Any) -> jax.Array:
            def step(_: Any, part: Any, factor: Any) -> None:
                plgpu.wgmma(total, part, factor)
                plgpu.wgmma_wait(1)  # that of the step before is done: its buffers may be filled again

            plgpu.emit_pipeline(
                step,
                grid=(pl.cdiv(x.shape[1], tile.depth),),
                in_specs=[
                    plgpu.BlockSpec(
                        (pl.Element(rows), tile.depth), lambda k: (place * ALIGNED, k), delay_release=1, transforms=form
                    ),
                    plgpu.BlockSpec((tile.depth, piece), lambda k: (k, at), delay_release=1, transforms=form),
                ],
                max_concurrent_steps=tile.stages,
            )(x, u)
            return total[...]

        middle[at] = pl.run_scoped(scope, plgpu.ACC((rows, piece))).astype(middle.dtype)
        plgpu.commit_smem()

    lax.fori_loop(0, pieces, one, None)


def out_of(middle: Any, v: Any, pieces: Any, column: Any, width: int, stages: int) -> jax.Array:
    """(middle v)[:, column * width : (column + 1) * width] from the first `pieces` pieces, float32; v [R F]."""
    _, rows, piece = middle.shape

    def scope(total: Any) -> jax.Array:
        def step(index: Any, factor: Any) -> None:
            plgpu.wgmma(total, middle.at[index[0]], factor)
            plgpu.wgmma_wait(1)

        plgpu.emit_pipeline(
            step,
            grid=(pieces,),
            in_specs=[
                plgpu.BlockSpec(
                    (piece, width), lambda k: (k, column), delay_release=1, transforms=swizzled(middle.dtype)
                )
            ],
            max_concurrent_steps=stages,
        )(v)
        return total[...]

    return pl.run_scoped(scope, plgpu.ACC((rows, width)))
