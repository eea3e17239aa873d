"""One training step compiled for a machine that is not there: what it holds, sends and computes on each chip.

Source: ours, over `jax.jit(...).lower(...).compile()`.
"""

import dataclasses
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from moejax.planning.collectives import Collective, collectives
from moejax.sharding.mesh import BATCH_AXES
from moejax.sharding.table import placed
from moejax.train.program import Program

KINDS = {"params": "parameters", "opt_state": "optimiser", "ema": "average", "state": "router state"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """On one chip, in bytes. held: what stays between steps, by kind. temporaries, peak: None where nothing was compiled.

    out_of_memory: what the compiler said where it gave up. seconds: of compilation.
    """

    held: dict[str, int]
    temporaries: int | None = None
    peak: int | None = None
    collectives: tuple[Collective, ...] = ()
    out_of_memory: str | None = None
    seconds: float = 0.0


def batch_shapes(model: Any, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of pictures (or latents) with labels, as its shapes."""
    side, channels = model.image_size, model.channels
    return {
        "image": jax.ShapeDtypeStruct((batch_size, side, side, channels), "float32"),
        "label": jax.ShapeDtypeStruct((batch_size,), "int32"),
    }


def held(program: Program) -> dict[str, int]:
    """Bytes on one chip between steps, by kind."""
    found: dict[str, int] = {}
    for row in placed(program.template, program.shardings):
        if kind := KINDS.get(row.name.partition("/")[0]):
            found[kind] = found.get(kind, 0) + row.bytes_per_device
    return found


def compile_step(program: Program, batch: dict[str, jax.ShapeDtypeStruct]) -> Step:
    """The step of `program`, whose mesh may be of chips that are not there, compiled ahead of time."""
    over_batch = NamedSharding(program.mesh, PartitionSpec(BATCH_AXES))
    state = jax.tree.map(_placed, program.template, program.shardings)
    inputs = {name: _placed(array, over_batch) for name, array in batch.items()}
    begin, kept = time.monotonic(), held(program)
    with jax.sharding.use_abstract_mesh(program.mesh.abstract_mesh):
        lowered = program.step.lower(state, inputs)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Step(held=kept, out_of_memory=str(error).splitlines()[0], seconds=time.monotonic() - begin)
    memory: Any = compiled.memory_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    # The compiler's own peak knows that donated arguments are used again; where it has none, the sum is a bound.
    peak = getattr(memory, "peak_memory_in_bytes", 0) or arguments + temporaries
    return Step(
        held=kept,
        temporaries=temporaries,
        peak=peak,
        collectives=tuple(collectives(str(compiled.as_text()))),
        seconds=time.monotonic() - begin,
    )


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
