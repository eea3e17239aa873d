"""Times of the grouped products beside the dense product of the same arithmetic, as ratios, with what bounds them.

  python kernels/bench/run.py --output kernels/bench/results/grouped_matmul_cpu.json --picture grouped_matmul.png
  python kernels/bench/run.py --cases medium --distributions uneven --passes forward --rounds 9

Every method of one case and distribution runs in turn in one process; times are medians over rounds, ratios are medians of
the ratio to the dense product x [M D] @ w [D F] of the same round. Beside each method its bound: its arithmetic (padding
included) over that of the dense product; on the chips of ROOFLINES also the least time that arithmetic and bytes allow. Runs unchanged on a GPU or TPU; the numbers say which device they are of.
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
from cases import CASES, DISTRIBUTIONS, Case, group_sizes
from moejax_kernels.grouped_matmul import grouped_matmul
from passes import compiled

from moejax.evals.timing import environment, interleaved, medians, ratios
from moejax.train.memory import keep_freed_memory

_CASES = flags.DEFINE_list("cases", [], "Beginnings of names of cases, by commas; none: all.")
_DISTRIBUTIONS = flags.DEFINE_list("distributions", list(DISTRIBUTIONS), "Of rows over groups.")
_PASSES = flags.DEFINE_list("passes", ["forward", "forward+backward"], "What is timed.")
_METHODS = flags.DEFINE_list("methods", ["ours", "ragged_dot", "batched"], "Beside the dense product.")
_IMPLEMENTATION = flags.DEFINE_string("implementation", None, "Of ours; None picks by device.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of all operands.")
_DEVICE = flags.DEFINE_string("device", None, "Platform to run on (cpu, gpu, tpu); None: the default.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_PICTURE = flags.DEFINE_string("picture", None, "PNG file: ratio to the dense product against the number of experts.")
_LARGEST = flags.DEFINE_float(
    "largest", 1.5e12, "Methods of more FLOPs than this in a pass are left out (ragged_dot on CPU)."
)

# Bytes per second and FLOP/s of one chip, as published by the makers (dense bfloat16).
ROOFLINES = {
    "NVIDIA A100": (2.0e12, 312e12),
    "NVIDIA H100": (3.35e12, 989e12),
    "NVIDIA H200": (4.8e12, 989e12),
    "TPU v4": (1.2e12, 275e12),
    "TPU v5 lite": (8.2e11, 197e12),
    "TPU v5": (2.8e12, 459e12),
    "TPU v6 lite": (1.6e12, 918e12),
}


def methods(case: Case, sizes: np.ndarray) -> dict[str, tuple[Callable[..., jax.Array], float]]:
    """Function of (x, w [E D F]) and its arithmetic as a multiple of the dense product's."""
    groups = jnp.asarray(sizes)
    capacity = min(case.rows, -(-5 * case.rows // (4 * case.experts)))
    ours = functools.partial(grouped_matmul, group_sizes=groups, implementation=_IMPLEMENTATION.value)

    def batched(x: jax.Array, w: jax.Array) -> jax.Array:
        # As capacity-limited layers do: the same number of rows for every expert, whatever they get (rows are dropped).
        taken = jnp.resize(x, (case.experts, capacity, case.inputs))
        return jnp.einsum("ECD,EDF->ECF", taken, w)

    on_cpu = jax.default_backend() == "cpu"
    known: dict[str, tuple[Callable[..., jax.Array], float]] = {
        "dense": (lambda x, w: x @ w[0], 1.0),
        "ours": (ours, 1.0),
        "ragged_dot": (lambda x, w: jax.lax.ragged_dot(x, w, groups), case.experts if on_cpu else 1.0),
        "batched": (batched, case.experts * capacity / case.rows),
    }
    passes = 3 if "forward+backward" in _PASSES.value else 1
    chosen = {name: known[name] for name in ["dense", *_METHODS.value]}
    return {
        name: m for name, m in chosen.items() if name != "ragged_dot" or m[1] * passes * case.flops <= _LARGEST.value
    }


def measure(case: Case, distribution: str) -> list[dict[str, Any]]:
    """One row per method and pass."""
    dtype = jnp.dtype(_DTYPE.value)
    sizes = group_sizes(distribution, case.rows, case.experts)
    x = jax.random.normal(jax.random.key(0), (case.rows, case.inputs), dtype)
    w = jax.random.normal(jax.random.key(1), (case.experts, case.inputs, case.outputs), dtype)
    w_dense = w[:1]
    rows = []
    for kind in _PASSES.value:
        programs, runs, arithmetic = {}, {}, {}
        for name, (function, factor) in methods(case, sizes).items():
            kernels = w_dense if name == "dense" else w
            programs[name] = compiled(function, kind, x, kernels)
            runs[name] = functools.partial(programs[name], x, kernels)
            arithmetic[name] = factor
        seconds = interleaved(runs, rounds=_ROUNDS.value)
        times, relative = medians(seconds), ratios(seconds, "dense")
        for name in runs:
            row: dict[str, Any] = {"case": case.name, "experts": case.experts, "distribution": distribution}
            row |= {"pass": kind, "method": name, "milliseconds": times[name], "ratio": relative[name]}
            row |= {"arithmetic": arithmetic[name], "largest_over_mean": float(sizes.max() * case.experts / case.rows)}
            row["temporary_bytes"] = programs[name].memory_analysis().temp_size_in_bytes
            rows.append(row | roofline(case, kind, times[name] / 1000, dtype.itemsize))
    return rows


def roofline(case: Case, kind: str, seconds: float, itemsize: int) -> dict[str, float]:
    """The least time that arithmetic and bytes allow on this chip, and the part of it reached; {} for chips not listed."""
    kinds = [k for k in ROOFLINES if jax.devices()[0].device_kind.startswith(k)]
    if not kinds:
        return {}
    bandwidth, peak = ROOFLINES[max(kinds, key=len)]
    passes = 3 if kind == "forward+backward" else 1
    moved = case.rows * (case.inputs + case.outputs) + case.experts * case.inputs * case.outputs
    bound = max(passes * case.flops / peak, passes * itemsize * moved / bandwidth)
    return {"roofline_milliseconds": 1000 * bound, "of_roofline": bound / seconds}


def draw(results: list[dict[str, Any]], path: str) -> None:
    """Ratio to the dense product against E, one panel per pass, a line per method and distribution."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = sorted({row["pass"] for row in results})
    figure, axes = plt.subplots(1, len(kinds), figsize=(5.5 * len(kinds), 4), squeeze=False, layout="constrained")
    medium = [row for row in results if row["case"].startswith("medium")]
    colours = {"ours": "tab:blue", "ragged_dot": "tab:red", "batched": "tab:orange"}
    strokes = dict(zip(dict.fromkeys(row["distribution"] for row in medium), ("-", "--", ":", "-.", (0, (1, 3)))))
    experts = sorted({row["experts"] for row in medium})
    for axis, kind in zip(axes[0], kinds, strict=True):
        for method, colour in colours.items():
            for distribution, stroke in strokes.items():
                line = [
                    r for r in medium if (r["method"], r["distribution"], r["pass"]) == (method, distribution, kind)
                ]
                if line:
                    spots = ([r["experts"] for r in line], [r["ratio"] for r in line])
                    axis.plot(*spots, linestyle=stroke, color=colour, marker=".", label=f"{method}, {distribution}")
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(xscale="log", xlabel="experts E", ylabel="time / dense product of equal FLOPs", title=kind)
        axis.set_xticks(experts, [str(e) for e in experts])
        axis.minorticks_off()
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
    del argv
    if _DEVICE.value:
        jax.config.update("jax_platforms", _DEVICE.value)
    keep_freed_memory()
    results = []
    chosen = [c for c in CASES if not _CASES.value or any(c.name.startswith(name) for name in _CASES.value)]
    print(f"{'case':22} {'groups':13} {'pass':17} {'method':11} {'ms':>9} {'ratio':>7} {'FLOPs':>6} {'temporary':>12}")
    for case in chosen:
        for distribution in _DISTRIBUTIONS.value:
            rows = measure(case, distribution)
            for row in rows:
                print(
                    f"{row['case']:22} {row['distribution']:13} {row['pass']:17} {row['method']:11} "
                    f"{row['milliseconds']:9.2f} {row['ratio']:7.2f} {row['arithmetic']:6.2f} {row['temporary_bytes']:12,}",
                    flush=True,
                )
            results += rows
    if _OUTPUT.value:
        record = {"environment": environment(), "dtype": _DTYPE.value, "rounds": _ROUNDS.value, "results": results}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(record, indent=1) + "\n")
    if _PICTURE.value:
        draw(results, _PICTURE.value)


if __name__ == "__main__":
    app.run(main)
