"""Static record of the TPU kernels, per chip generation, with no TPU: what the compiler says of work, memory and schedule.

    python kernels/bench/tpu_static.py [--chips v4,v5e,v5p,v6e] [--models vmoe,mixtral] [--ops product,...] [--tiling 512,1024,1024]
    python kernels/bench/tpu_static.py --schedule product --chips v5e --models mixtral

Needs libtpu (`pip install 'jax[tpu]'`). Every case is compiled in a process of its own, ahead of time, for a chip that is
not there. Recorded: FLOPs by the compiler's cost analysis over the useful ones, vector memory by our model, device memory,
and with --schedule the share of matrix-unit slots used in the main loop of the final schedule and the spills in it.
None of it is a time: stalls on memory are invisible here. Nothing in this file ever ran on a device.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results" / "tpu_static.json"
TOPOLOGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "v4": ("v4:2x2x1", {"chip_config_name": "megacore"}),
    "v5e": ("v5e:2x2", {}),
    "v5p": ("v5p:2x2x1", {}),
    "v6e": ("v6e:2x2", {}),
}
MODELS = {  # rows, width, hidden width, experts
    "vmoe": (8192, 768, 3072, 32),
    "dit": (8192, 1152, 4608, 8),
    "mixtral": (8192, 4096, 14336, 8),
    "deepseek": (8192, 2048, 1408, 64),
}
OPS = ("product", "transposed", "gated", "outer", "lowrank_product", "lowrank_ffn", "lowrank_gated")


@dataclasses.dataclass(frozen=True)
class Segment:
    """A straight run of bundles of the final schedule between two labels."""

    bundles: int
    matrix: int  # matrix-unit slots used
    slots: int  # matrix-unit slots there are
    fills: int
    spills: int
    use: dict[str, float]  # share of the slots of each kind of unit


def segments(schedule: str, utilization: str) -> list[Segment]:
    """Runs of bundles of a kernel, in order, from the texts of its final bundles and of their use of slots."""
    header, body = utilization.split("== UTILIZATION:")
    lines = [line for line in header.splitlines() if line.strip()]
    names = [name.strip() for name in lines[-2].split(",")]
    capacity = dict(zip(names, (int(n) for n in lines[-1].split())))
    rows = [dict(zip(names, (int(n) for n in line.split()))) for line in body.splitlines() if line.strip()]
    starts = {0, len(rows)}
    for line in schedule.splitlines():
        label = re.match(r"^\s*(0x[0-9a-f]+|0)\s+(LH|LB|LE|PB|PF|CT):", line)
        if label:
            starts.add(min(int(label[1], 16), len(rows)))
    edges = sorted(starts)
    found = []
    for first, after in zip(edges, edges[1:]):
        part = rows[first:after]
        used = {name: sum(row[name] for row in part) for name in names}
        found.append(
            Segment(
                bundles=after - first,
                matrix=used["MXU"],
                slots=capacity["MXU"] * (after - first),
                fills=used["VLOAD:FILL"],
                spills=used["VSTORE:SPILL"],
                use={name: round(used[name] / capacity[name] / (after - first), 3) for name in names},
            )
        )
    return found


def main_loop(parts: list[Segment]) -> Segment:
    """The segment with the most matrix-unit slots in use: the multiplication of a whole tile."""
    return max(parts, key=lambda part: part.matrix)


def case(op: str, model: str, tiling: tuple[int, int, int] | None) -> tuple[Any, list[Any], int]:
    """Function, (shape, dtype) of its arguments, and its useful FLOPs."""
    import jax.numpy as jnp
    from moejax_kernels.grouped_matmul import api
    from moejax_kernels.lowrank_matmul import grouped_lowrank_ffn, grouped_lowrank_matmul

    m, d, f, e = MODELS[model]
    r = -(-d // 4 // 128) * 128
    x, y, w, sizes = ((m, d), "bfloat16"), ((m, f), "bfloat16"), ((e, d, f), "bfloat16"), ((e,), jnp.int32)
    told: dict[str, Any] = {"implementation": "pallas_tpu", "tiling": tiling}
    flops, low = 2 * m * d * f, 2 * m * r * (d + f)
    into, down = [((e, d, r), "bfloat16"), ((e, r, f), "bfloat16")], [((e, f, r), "bfloat16"), ((e, r, d), "bfloat16")]

    def ffn(x: Any, *factors: Any) -> Any:
        *pairs, s = factors
        gate = tuple(pairs[4:]) or None
        return grouped_lowrank_ffn(x, tuple(pairs[:2]), tuple(pairs[2:4]), s, gate=gate, activation="silu", **told)

    return {
        "product": (lambda x, w, s: api.grouped_matmul(x, w, s, **told), [x, w, sizes], flops),
        "transposed": (lambda y, w, s: api.grouped_matmul(y, w, s, transposed=True, **told), [y, w, sizes], flops),
        "gated": (lambda x, a, b, s: api.grouped_gated_matmul(x, a, b, s, **told), [x, w, w, sizes], 2 * flops),
        "outer": (lambda x, y, s: api.grouped_outer(x, y, s, **told), [x, y, sizes], flops),
        "lowrank_product": (lambda x, u, v, s: grouped_lowrank_matmul(x, u, v, s, **told), [x, *into, sizes], low),
        "lowrank_ffn": (ffn, [x, *into, *down, sizes], 2 * low),
        "lowrank_gated": (ffn, [x, *into, *down, *into, sizes], 3 * low),
    }[op]


def compile_for(chip: str, function: Any, specs: list[Any], devices: int = 1) -> Any:
    """The function compiled for devices of a generation that need not be there. specs: (shape, dtype) of arguments."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    name, settings = TOPOLOGIES[chip]
    present = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings).devices
    mesh = Mesh(np.array(present[:devices]), ("x",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in specs]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*arguments).compile()


def rows_multiplied(sizes: Any, tile: int, piece: int, bodies: bool) -> int:
    """Rows that the kernels multiply for groups of those sizes: whole tiles, and pieces where groups share one."""
    rows, start = 0, 0
    for size in sizes:
        end = start + int(size)
        for first in range(start - start % tile, end, tile):
            low, high = max(start - first, 0), min(end - first, tile)
            whole = bodies and high - low == tile
            rows += tile if whole else (-(-high // piece) - low // piece) * piece
        start = end
    return rows


def tiles_of(chip: str, op: str, model: str, tiling: Any) -> dict[str, Any]:
    """Tiles chosen for a grouped product, what our model says it needs, and how much is multiplied besides useful rows."""
    import jax.numpy as jnp
    import numpy as np
    from moejax_kernels import tpu_memory
    from moejax_kernels.grouped_matmul import pallas_tpu_tiles

    m, d, f, e = MODELS[model]
    name = {"product": "product", "transposed": "product", "gated": "gated_product", "outer": "sum_of_outer"}[op]
    shape = (m, f, d, e) if op == "transposed" else (m, d, f, e)
    kinds = (jnp.bfloat16, jnp.bfloat16)
    tiles = pallas_tpu_tiles.choose(name, shape, kinds, tiling, kernels=2 if op == "gated" else 1)
    uneven = np.random.default_rng(0).multinomial(m, np.random.default_rng(0).dirichlet(np.ones(e)))
    work = {
        which: round(rows_multiplied(sizes, tiles.rows, tiles.piece, True) / m, 3)
        for which, sizes in (("even", [m // e] * e), ("uneven", uneven))
    }
    held = tpu_memory.chips()[chip]
    return {
        "tiles": tiles[:3],
        "vmem_model_mib": round(tiles.vmem / tpu_memory.MIB, 1),
        "vmem_limit_mib": round(held.limit_bytes / tpu_memory.MIB, 1),
        "rows_multiplied_over_useful": work,
    }


def record(chip: str, op: str, model: str, tiling: tuple[int, int, int] | None) -> dict[str, Any]:
    """What one compilation says. Run in a process of its own: the compiler's dump is set when it is loaded."""
    function, specs, flops = case(op, model, tiling)
    told: dict[str, Any] = {}

    def traced(*arguments: Any) -> Any:
        if not op.startswith("lowrank"):
            told.update(tiles_of(chip, op, model, tiling))  # here, where the chip is known
        return function(*arguments)

    compiled = compile_for(chip, traced, specs)
    memory = compiled.memory_analysis()
    return {
        "flops_over_useful": round(compiled.cost_analysis()["flops"] / flops, 4),
        "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 3),
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20, 1),
        **told,
    }


def read_dump(folder: pathlib.Path) -> dict[str, Any]:
    """Main loop of the kernel in a dump of the compiler, and the spills of the whole kernel."""
    use = max(folder.glob("*final_hlo-static-per-bundle-utilization.txt"), key=lambda p: p.stat().st_size)
    kernel = re.sub(r"-\d+-final_hlo.*", "", use.name)
    bundles = next(p for p in folder.glob(f"{kernel}-*-final_bundles.txt") if "schedule-analysis" not in p.name)
    parts = segments(bundles.read_text(), use.read_text())
    loop = main_loop(parts)
    return {
        "main_loop_bundles": loop.bundles,
        "main_loop_matrix_slots": round(loop.matrix / loop.slots, 3),
        "main_loop_spills": loop.spills,
        "main_loop_fills": loop.fills,
        "main_loop_use": loop.use,
        "kernel_bundles": sum(part.bundles for part in parts),
        "kernel_spills": sum(part.spills for part in parts),
        "segments": [
            [part.bundles, round(part.matrix / part.slots, 3), part.spills, part.fills]
            for part in parts
            if part.bundles > 99
        ],
    }


def run(chip: str, op: str, model: str, tiling: str, schedule: bool) -> dict[str, Any]:
    """One case in a process of its own; its dump, tens of MiB of text, is read and deleted."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true" if schedule else ""
        known = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        command = [sys.executable, __file__, "--one", f"{chip}:{op}:{model}", "--tiling", tiling]
        done = subprocess.run(
            command, env={**os.environ, **known, "LIBTPU_INIT_ARGS": flags}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1][:500]}
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return {**told, **(read_dump(pathlib.Path(folder)) if schedule else {})}


def main() -> None:
    """Compile and record; see the head of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chips", default=",".join(TOPOLOGIES))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--tiling", default="", help="rows,depth,columns; the tuned table when not given")
    parser.add_argument("--schedule", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--one", help="chip:op:model, in this process; prints JSON")
    told = parser.parse_args()
    tiling = tuple(int(n) for n in told.tiling.split(",")) if told.tiling else None
    if told.one:
        print(json.dumps(record(*told.one.split(":"), tiling)))  # type: ignore[arg-type]
        return
    results = json.loads(told.out.read_text()) if told.out.exists() else {}
    for chip in told.chips.split(","):
        for model in told.models.split(","):
            for op in told.ops.split(","):
                key = f"{chip} {model} {op} {told.tiling or 'tuned'}"
                results[key] = {**results.get(key, {}), **run(chip, op, model, told.tiling, told.schedule)}
                print(key, json.dumps(results[key]), flush=True)
                told.out.parent.mkdir(parents=True, exist_ok=True)
                told.out.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
