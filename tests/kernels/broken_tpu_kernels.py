"""TPU kernels with one thing wrong each, for the tests of what each level of verification catches.

    python -m tests.kernels.broken_tpu_kernels NAME

runs one of CASES in TPU interpret mode and prints 'right' or 'wrong'; races and errors are printed by the interpreter. In a
process of its own, because an error on one of the interpreter's cores can surface again in whatever is run next.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

STRICT = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2, dma_execution_mode="on_wait")
A = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
B = np.random.default_rng(1).normal(size=(256, 128)).astype(np.float32)


def tiled(x, w, *, interpret, blocks=(8, 128, 128), wrong="nothing"):
    """x w in tiles, right unless told otherwise."""
    (m, d), f = x.shape, w.shape[1]
    rows, depth, columns = blocks

    def body(a, b, out, total):
        if wrong != "sum never begins":
            pl.when(pl.program_id(2) == 0)(lambda: total.__setitem__(..., jnp.zeros_like(total)))
        total[...] += jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)
        pl.when(pl.program_id(2) == pl.num_programs(2) - 1)(lambda: out.__setitem__(..., total[...]))

    def all_at_once(a, b, out, total):
        del total
        pl.when(pl.program_id(0) == 0)(lambda: out.__setitem__(..., jnp.zeros_like(out)))
        out[...] += jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)

    race = wrong == "sum over a parallel axis"
    shift = 1 if wrong == "out of bounds" else 0
    grid = (d // depth,) if race else (m // rows, f // columns, d // depth)
    return pl.pallas_call(
        all_at_once if race else body,
        out_shape=jax.ShapeDtypeStruct((m, f), jnp.float32),
        grid=grid,
        in_specs=[
            pl.BlockSpec(
                (m if race else rows, depth), (lambda k: (0, k)) if race else (lambda i, j, k: (i + shift, k))
            ),
            pl.BlockSpec((depth, f if race else columns), (lambda k: (k, 0)) if race else (lambda i, j, k: (k, j))),
        ],
        out_specs=pl.BlockSpec(
            (m, f) if race else (rows, columns), (lambda k: (0, 0)) if race else (lambda i, j, k: (i, j))
        ),
        scratch_shapes=[pltpu.VMEM((rows, columns), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) if race else ("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
    )(x, w)


def copied(x, *, waits):
    """x, by a copy into vector memory that is waited for or not."""

    def body(a, out, held, done):
        copy = pltpu.make_async_copy(a, held, done)
        copy.start()
        if waits:
            copy.wait()
        out[...] = held[...]

    return pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct(x.shape, jnp.float32),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
        scratch_shapes=[pltpu.VMEM(x.shape, jnp.float32), pltpu.SemaphoreType.DMA],
        interpret=STRICT,
    )(x)


def product_with(wrong):
    return lambda: (tiled(A, B, interpret=STRICT, wrong=wrong), A @ B)


CASES = {
    "nothing wrong": product_with("nothing"),
    "out of bounds": product_with("out of bounds"),
    "sum over a parallel axis": product_with("sum over a parallel axis"),
    "copy waited for": lambda: (copied(A, waits=True), A),
    "copy not waited for": lambda: (copied(A, waits=False), A),
}

if __name__ == "__main__":
    found, expected = CASES[sys.argv[1]]()
    print("right" if np.allclose(found, expected, atol=1e-3) else "wrong")
