"""Chooses the ladder of block sizes of `xla` for each mean number of rows per group, and writes tuned/cpu.json.

  python kernels/bench/tune.py --output kernels/moejax_kernels/grouped_matmul/tuned/cpu.json

For each mean, a product of uneven groups is timed with every candidate, forward and with its gradients, interleaved in one
process; the least geometric mean of the two median ratios to the dense product wins. All ratios are kept in the file.
"""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
from absl import app, flags
from cases import group_sizes
from moejax_kernels.grouped_matmul import grouped_matmul
from passes import compiled

from moejax.evals.timing import environment, interleaved, ratios
from moejax.train.memory import keep_freed_memory

_OUTPUT = flags.DEFINE_string("output", None, "JSON file.", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds.", 1)
_ROWS = flags.DEFINE_integer("rows", 4096, "Rows M.", 1)
_INPUTS = flags.DEFINE_integer("inputs", 512, "D.", 1)
_OUTPUTS = flags.DEFINE_integer("outputs", 2048, "F.", 1)
_MEANS = flags.DEFINE_list("means", ["32", "128", "512"], "Mean rows of a group.")


def candidates(mean: int) -> dict[str, tuple[int, ...]]:
    """Ladders by name: even steps up to a middle, then steps four times as wide up to a top."""
    found = {}
    for middle, top in ((1, 2), (1, 4), (2, 4), (2, 8)):
        for steps in (8, 16):
            step = max(8, middle * mean // steps)
            fine = range(step, middle * mean + 1, step)
            coarse = range(middle * mean + 4 * step, top * mean + 1, 4 * step)
            ladder = tuple(sorted({*fine, *coarse, min(top * mean, 1024)}))
            found[f"{step} to {middle * mean} to {top * mean}"] = tuple(b for b in ladder if b <= 1024)
    return found


def measure(mean: int) -> dict[str, tuple[float, float]]:
    """Ratio to the dense product of each candidate, (forward, forward+backward)."""
    rows, experts = _ROWS.value, max(1, _ROWS.value // mean)
    sizes = jnp.asarray(group_sizes("uneven", rows, experts))
    x = jax.random.normal(jax.random.key(0), (rows, _INPUTS.value))
    w = jax.random.normal(jax.random.key(1), (experts, _INPUTS.value, _OUTPUTS.value))

    programs = {"dense": (lambda x, w: x @ w[0], w[:1])}
    for name, ladder in candidates(mean).items():
        ours = functools.partial(grouped_matmul, group_sizes=sizes, implementation="xla", tiling=ladder)
        programs[name] = (ours, w)
    relative = []
    for kind in ("forward", "forward+backward"):
        runs = {
            name: functools.partial(compiled(function, kind, x, kernels), x, kernels)
            for name, (function, kernels) in programs.items()
        }
        relative.append(ratios(interleaved(runs, rounds=_ROUNDS.value), "dense"))
    return {name: (relative[0][name], relative[1][name]) for name in candidates(mean)}


def main(argv: list[str]) -> None:
    del argv
    keep_freed_memory()
    ladders, measured = {}, {}
    for mean in map(int, _MEANS.value):
        found = measure(mean)
        best = min(found, key=lambda name: math.prod(found[name]))
        ladders[mean], measured[mean] = candidates(mean)[best], found
        for name, (forward, both) in found.items():
            print(
                f"mean {mean:5} ladder {name:20} {forward:6.2f} {both:6.2f}{'  <' if name == best else ''}", flush=True
            )
    setting = {"rows": _ROWS.value, "inputs": _INPUTS.value, "outputs": _OUTPUTS.value, "rounds": _ROUNDS.value}
    record = {"ladders": ladders, "ratios_to_dense": measured, "setting": setting, "environment": environment()}
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
