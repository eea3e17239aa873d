"""Static record of the GPU kernels for an H100, with no GPU: registers, spills and shared memory as the assembler tells them.

    JAX_PLATFORMS=cpu python kernels/bench/gpu_static.py [--models vmoe,mixtral] [--ops product,...] [--tiling 128,64,128,3]

Needs a CUDA plugin of jax (`pip install 'jax[cuda12-local]'`, for jax 0.12 `'jax[cuda13-local]'`) and no GPU. Every case is
compiled to machine code for shapes of real models in bfloat16. Recorded per case: registers per thread, bytes spilled,
shared memory as the compiler sized it and as our model says, blocks that fit a multiprocessor by both, matrix instructions
in the code, and the device memory of temporaries beside the operands. None of it is a time: compiled, never run on a device.
"""

import argparse
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from moejax_kernels.grouped_matmul import pallas_gpu, pallas_gpu_outer
from moejax_kernels.grouped_matmul.api import grouped_gated_matmul, grouped_matmul, grouped_outer
from moejax_kernels.hopper import ahead_of_time, limits
from moejax_kernels.lowrank_matmul import pallas_gpu as lowrank_gpu
from moejax_kernels.lowrank_matmul import pallas_gpu_ffn as lowrank_gpu_ffn
from moejax_kernels.lowrank_matmul.api import grouped_lowrank_ffn, grouped_lowrank_matmul

RESULTS = pathlib.Path(__file__).parent / "results" / "gpu_static.json"
MODELS = {  # rows, width, hidden width, experts
    "vmoe": (8192, 768, 3072, 32),
    "dit": (8192, 1152, 4608, 8),
    "mixtral": (8192, 4096, 14336, 8),
    "deepseek": (8192, 2048, 1408, 64),
}
OPS = ("product", "transposed", "gated", "outer", "lowrank", "lowrank_ffn")
NAMES = {"transposed": "product", "gated": "gated_product", "outer": "sum_of_outer", "lowrank": "lowrank_product"}
REGISTERS, SHARED_OF_ALL = 65536, 233472  # of one multiprocessor


def case(op: str, model: str, tiling: tuple[int, ...] | None = None) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and its operands, as (shape, dtype), of one op at one model's shapes."""
    rows, width, hidden, experts = MODELS[model]
    settings: dict[str, Any] = {"implementation": "pallas_gpu", "tiling": tiling}
    x, y = ((rows, width), jnp.bfloat16), ((rows, hidden), jnp.bfloat16)
    w, sizes = ((experts, width, hidden), jnp.bfloat16), ((experts,), jnp.int32)
    if op == "product":
        return lambda x, w, s: grouped_matmul(x, w, s, activation="gelu", **settings), (x, w, sizes)
    if op == "transposed":
        return lambda y, w, s: grouped_matmul(y, w, s, transposed=True, **settings), (y, w, sizes)
    if op == "gated":
        return lambda x, g, u, s: grouped_gated_matmul(x, g, u, s, **settings), (x, w, w, sizes)
    if op == "outer":
        return lambda x, y, s: grouped_outer(x, y, s, **settings), (x, y, sizes)
    rank = rank_of(model)
    u, v = ((experts, width, rank), jnp.bfloat16), ((experts, rank, hidden), jnp.bfloat16)
    if op == "lowrank":
        return lambda x, u, v, s: grouped_lowrank_matmul(x, u, v, s, **settings), (x, u, v, sizes)
    back = ((experts, hidden, rank), jnp.bfloat16), ((experts, rank, width), jnp.bfloat16)
    if op == "lowrank_ffn":
        return (
            lambda x, u, v, a, b, s: grouped_lowrank_ffn(x, (u, v), (a, b), s, activation="gelu", **settings),
            (x, u, v, *back, sizes),
        )
    raise ValueError(f"op={op!r} is not one of {', '.join(OPS)}.")


def compiled_with_record(function: Callable[..., Any], operands: tuple[Any, ...]) -> tuple[Any, list[dict[str, int]]]:
    """The compiled function, and what the assembler told of each of its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        told = {"MOSAIC_GPU_DUMP_TO": folder, "MOSAIC_GPU_DUMP_PTX": "1", "MOSAIC_GPU_DUMP_PTXAS": "1"}
        held = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            compiled = ahead_of_time.compile_for_h100(function, *operands)
        finally:
            for name, value in held.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        return compiled, [read_record(path) for path in sorted(pathlib.Path(folder).glob("*.ptxas"))]


def read_record(path: pathlib.Path) -> dict[str, int]:
    """Registers, spilled bytes, shared memory and matrix instructions of one kernel from its dumped files.

    Raises ValueError where a file does not tell one of them.
    """
    told, passes = path.read_text(), path.with_suffix(".mlir-passes.log").read_text()
    patterns = {
        "registers": (r"Used (\d+) registers", told),
        "spill_stores": (r"(\d+) bytes spill stores", told),
        "spill_loads": (r"(\d+) bytes spill loads", told),
        "shared_bytes": (r"dynamic_shared_memory_size %c(\d+)", passes),
    }
    record = {}
    for name, (pattern, text) in patterns.items():
        found = re.search(pattern, text)
        if found is None:
            raise ValueError(f"{path.name} tells no {name} (pattern {pattern!r}); did the compiler's record change?")
        record[name] = int(found.group(1))
    record["matrix_instructions"] = len(re.findall(r"wgmma\.mma_async", path.with_suffix(".ptx").read_text()))
    return record


def rank_of(model: str) -> int:
    """About an eighth of the width, in whole rows of shared memory (64 columns)."""
    return -(-MODELS[model][1] // 8 // 64) * 64


def model_bytes(op: str, model: str, tiling: tuple[int, ...] | None) -> tuple[limits.Tiling, int]:
    """The tiling of a case and the shared memory that our model says it needs."""
    rows, _, _, experts = MODELS[model]
    tile = limits.tiling_for(NAMES.get(op, op), tiling, -(-rows // experts))
    rank = rank_of(model)
    if op == "outer":
        return tile, pallas_gpu_outer.shared_bytes(tile, 2)
    if op == "lowrank":
        return tile, lowrank_gpu.shared_bytes(tile, rank, 2)
    if op == "lowrank_ffn":
        return tile, lowrank_gpu_ffn.shared_bytes(tile, (rank,), rank, 2)
    return tile, pallas_gpu.shared_bytes(tile, 2 if op == "gated" else 1, 2)


def record(op: str, model: str, tiling: tuple[int, ...] | None) -> dict[str, Any]:
    """One row of the record."""
    function, operands = case(op, model, tiling)
    compiled, (kernel,) = compiled_with_record(function, operands)
    tile, modelled = model_bytes(op, model, tiling)
    by_registers = REGISTERS // (limits.THREADS * -(-kernel["registers"] // 8) * 8)
    by_shared = SHARED_OF_ALL // (kernel["shared_bytes"] + 1024)
    return {
        "op": op,
        "model": model,
        "tiling": tile.told(),
        **kernel,
        "shared_bytes_by_our_model": modelled,
        "blocks_per_multiprocessor": min(by_registers, by_shared),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def main() -> None:
    """Prints and stores the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--tiling", help="rows,depth,columns,stages in place of the table's; nothing is stored then")
    options = parser.parse_args()
    tiling = tuple(int(n) for n in options.tiling.split(",")) if options.tiling else None
    rows = []
    for model in options.models.split(","):
        for op in options.ops.split(","):
            rows.append(record(op, model, tiling))
            print(json.dumps(rows[-1]), flush=True)
    if tiling is None:
        RESULTS.parent.mkdir(exist_ok=True)
        body = {"chip": ahead_of_time.KIND, "note": "compiled, never timed on a device", "cases": rows}
        RESULTS.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
