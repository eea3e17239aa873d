"""One training step compiled for a machine that is not there: what it holds, sends and computes on each chip.

Source: ours, over `jax.jit(...).lower(...).compile()`.
"""

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from moejax.evals.model_ends import num_tokens
from moejax.planning.collectives import Collective, collectives
from moejax.planning.products import Products, products
from moejax.sharding.mesh import BATCH_AXES
from moejax.sharding.table import placed
from moejax.train.program import Program

KINDS = {"params": "parameters", "opt_state": "optimiser", "ema": "average", "state": "router state"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """On one chip, in bytes. held: what stays between steps, by kind. temporaries, peak: None where nothing was compiled.

    products: FLOPs. out_of_memory: what the compiler said where it gave up. seconds: of tracing and compilation.
    compiler_seconds: the compiler's own estimate of the step's time; None where it means nothing.
    """

    held: dict[str, int]
    temporaries: int | None = None
    peak: int | None = None
    collectives: tuple[Collective, ...] = ()
    products: Products | None = None
    out_of_memory: str | None = None
    seconds: float = 0.0
    compiler_seconds: float | None = None


def rows_per_chip(model: Any, batch_size: int, num_chips: int, length: int | None = None) -> int | None:
    """Rows that a chip's experts compute in a layer where all are loaded evenly; None for models whose tokens do not choose.

    length: tokens of a sequence of text (None: the longest).
    """
    chosen = getattr(getattr(model.moe, "router", None), "num_selected_experts", None)
    return None if chosen is None else batch_size * num_tokens(model, length) * chosen // num_chips


def held(program: Program) -> dict[str, int]:
    """Bytes on one chip between steps, by kind."""
    found: dict[str, int] = {}
    for row in placed(program.template, program.shardings):
        if kind := KINDS.get(row.name.partition("/")[0]):
            found[kind] = found.get(kind, 0) + row.bytes_per_device
    return found


def compile_step(program: Program, batch: dict[str, jax.ShapeDtypeStruct], *, rows: int | None = None) -> Step:
    """The step of `program`, whose mesh may be of chips that are not there, compiled ahead of time. rows: as `products`."""
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
    text = str(compiled.as_text())
    return Step(
        held=kept,
        temporaries=temporaries,
        peak=peak,
        collectives=tuple(collectives(text)),
        products=products(text, rows=rows),
        seconds=time.monotonic() - begin,
        compiler_seconds=compiler_seconds(compiled.cost_analysis(), text),
    )


def compiler_seconds(costs: Any, hlo: str) -> float | None:
    """'optimal_seconds' of a cost analysis; None where the compiler has none (GPUs) or one that means nothing.

    Operations that run beside others make it negative or far too small, and bodies of loops are counted once.
    """
    costs = costs[0] if isinstance(costs, list) else costs
    seconds = (costs or {}).get("optimal_seconds")
    if seconds is None or not 0 < seconds < float("inf"):
        return None
    if re.search(r" (while|[a-z\-]+-start)\(", hlo):
        return None
    return float(seconds)


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
