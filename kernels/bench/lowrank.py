"""Times and temporary memory of the fused low-rank FFN beside the dense chain of the same arithmetic, its bound.

  python kernels/bench/lowrank.py --output kernels/bench/results/lowrank_cpu.json
  python kernels/bench/lowrank.py --experts 8 --parts 8 --passes forward --rounds 9

bound: act(x u v) u' v' with one group and plain products. fused: `grouped_lowrank_ffn`. unfused: the same from grouped
products, [M F] in memory. All run in turn in one process; times are medians over rounds, ratios medians of the ratio to the
bound of the same round. The error is that of value and gradients against the plain product of each group, the largest in parts
of the largest entry. Runs unchanged on a GPU or TPU.
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from cases import group_sizes
from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul import grouped_matmul
from moejax_kernels.lowrank_matmul import grouped_lowrank_ffn
from passes import compiled

from moejax.evals.timing import environment, interleaved, medians, ratios
from moejax.train.memory import keep_freed_memory

_EXPERTS = flags.DEFINE_list("experts", ["8", "32"], "Numbers of experts.")
_PARTS = flags.DEFINE_list("parts", ["8", "4"], "The rank is the width D over this.")
_PASSES = flags.DEFINE_list("passes", ["forward", "forward+backward"], "What is timed.")
_DISTRIBUTION = flags.DEFINE_string("distribution", "uneven", "Of rows over groups, as in cases.py.")
_SHAPE = flags.DEFINE_list("shape", ["4096", "512", "2048"], "Rows M, width D, hidden width F.")
_GATED = flags.DEFINE_bool("gated", False, "With a gate: three pairs of factors.")
_ACTIVATION = flags.DEFINE_string("activation", "gelu", "Between the products.")
_IMPLEMENTATION = flags.DEFINE_string("implementation", None, "Of the fused one; None picks by device.")
_TILING = flags.DEFINE_list("tiling", [], "Of the fused one; none: its own.")
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Timed rounds.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")

Factors = dict[str, tuple[jax.Array, jax.Array]]
Method = Callable[[jax.Array, Factors], jax.Array]


def chain(product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, factors: Factors) -> jax.Array:
    """The FFN from a product of rows with one factor."""

    def through(x: jax.Array, name: str) -> jax.Array:
        return functools.reduce(product, factors[name], x)

    value = through(x, "up")
    active = activate(through(x, "gate") if "gate" in factors else value, _ACTIVATION.value)
    hidden = active * value if "gate" in factors else active
    return functools.reduce(product, factors["down"], hidden)


def by_group(sizes: np.ndarray, x: jax.Array, factors: Factors) -> jax.Array:
    """The FFN of each group's rows by plain products: what the error is taken against."""
    ends = np.cumsum(sizes)
    parts = []
    for e, (low, high) in enumerate(zip(ends - sizes, ends, strict=True)):
        own = jax.tree.map(lambda factor, e=e: factor[e], factors)
        parts.append(chain(functools.partial(jnp.matmul, precision="highest"), x[low:high], own))
    return jnp.concatenate(parts)


def methods(sizes: np.ndarray) -> dict[str, Method]:
    """Functions of x [M D] and factors [E ...]."""
    groups = jnp.asarray(sizes)

    def fused(x: jax.Array, factors: Factors) -> jax.Array:
        settings = {"implementation": _IMPLEMENTATION.value, "tiling": tuple(map(int, _TILING.value)) or None}
        return grouped_lowrank_ffn(
            x,
            factors["up"],
            factors["down"],
            groups,
            gate=factors.get("gate"),
            activation=_ACTIVATION.value,
            **settings,
        )

    return {
        "bound": functools.partial(chain, lambda x, factor: x @ factor[0]),
        "fused": fused,
        "unfused": functools.partial(chain, functools.partial(grouped_matmul, group_sizes=groups)),
    }


def draw(experts: int, rank: int) -> tuple[jax.Array, Factors]:
    """Rows and factors with entries such that every product's are of size one."""
    rows, width, hidden = map(int, _SHAPE.value)
    names = ["up", "down", "gate"] if _GATED.value else ["up", "down"]
    keys = iter(jax.random.split(jax.random.key(0), 7))

    def factor(depth: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (experts, depth, columns)) / np.sqrt(depth)

    ends = {"up": (width, hidden), "down": (hidden, width), "gate": (width, hidden)}
    factors = {name: (factor(ends[name][0], rank), factor(rank, ends[name][1])) for name in names}
    return jax.random.normal(next(keys), (rows, width)), factors


def difference(a: Any, b: Any) -> float:
    """The largest difference of two trees of arrays, in parts of the largest entry of each array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))) for x, y in pairs)


def measure(experts: int, part: int, kind: str) -> list[dict[str, Any]]:
    """One row per method."""
    rows, width, hidden = map(int, _SHAPE.value)
    sizes = group_sizes(_DISTRIBUTION.value, rows, experts)
    x, factors = draw(experts, width // part)
    one = jax.tree.map(lambda factor: factor[:1], factors)
    programs, runs = {}, {}
    for name, method in methods(sizes).items():
        own = one if name == "bound" else factors
        programs[name] = compiled(method, kind, x, own)
        runs[name] = functools.partial(programs[name], x, own)
    wanted = compiled(functools.partial(by_group, sizes), kind, x, factors)(x, factors)
    errors = {name: difference(run(), wanted) for name, run in runs.items() if name != "bound"}
    seconds = interleaved(runs, rounds=_ROUNDS.value)
    times, relative = medians(seconds), ratios(seconds, "bound")
    flops = 2 * rows * (width // part) * (width + hidden) * (3 if _GATED.value else 2)
    flops *= 3 if kind == "forward+backward" else 1
    told = {
        "experts": experts,
        "rank": width // part,
        "pass": kind,
        "gflops": flops / 1e9,
        "middle_bytes": 4 * rows * hidden,
    }
    return [
        told
        | {"method": name, "milliseconds": times[name], "ratio": relative[name], "error": errors.get(name)}
        | {"temporary_bytes": programs[name].memory_analysis().temp_size_in_bytes}
        for name in runs
    ]


def main(argv: list[str]) -> None:
    del argv
    keep_freed_memory()
    results = []
    print(
        f"{'E':>4} {'rank':>5} {'pass':17} {'method':8} {'ms':>9} {'ratio':>6} {'GFLOP/s':>8} {'temporary':>12} {'error':>8}"
    )
    for experts in map(int, _EXPERTS.value):
        for part in map(int, _PARTS.value):
            for kind in _PASSES.value:
                for row in measure(experts, part, kind):
                    error = "" if row["error"] is None else f"{row['error']:8.1e}"
                    speed = row["gflops"] / row["milliseconds"] * 1000
                    print(
                        f"{experts:4} {row['rank']:5} {kind:17} {row['method']:8} {row['milliseconds']:9.2f} "
                        f"{row['ratio']:6.2f} {speed:8.1f} {row['temporary_bytes']:12,} {error}",
                        flush=True,
                    )
                    results.append(row)
    if _OUTPUT.value:
        shape = [int(size) for size in _SHAPE.value]
        record = {"environment": environment(), "shape": shape, "rounds": _ROUNDS.value, "results": results}
        record |= {"distribution": _DISTRIBUTION.value, "gated": _GATED.value, "activation": _ACTIVATION.value}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
