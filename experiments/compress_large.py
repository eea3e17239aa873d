"""Time and peak memory of every compressor on one bank of large experts with random weights: 8 experts of 4096 x 14336.

  python experiments/compress_large.py --output experiments/results/compress_large.json
  python experiments/compress_large.py --methods svd_llm,maestro:steps=30 --experts 2 --budget 0.25

Each method runs in a process of its own, so that the peak is its own: weights, statistics and result included. Methods for
single kernels get the bank `up`; those for whole banks `up`, `gate` and `down`. Statistics are random, of full rank; those
of width 4096 are each expert's own, those of width 14336 (second moments of `down`, output factors of the Kronecker Fisher;
0.77 GiB in float32) are one array that the experts share, because eight of them alone would take 6.1 GiB. Results are added
to the output file, method by method. Exit code 1: a method that does not exist; 2: bad flags.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import flag_errors
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from moejax.compress import compress
from moejax.compress.statistics import KINDS, LeafStatistics
from moejax.core.errors import did_you_mean
from moejax.core.spec import build_method, methods
from moejax.evals.timing import environment
from moejax.linear.dense import Dense

_METHODS = flags.DEFINE_list("methods", None, "Files of moejax/compress, a field after a colon; by default all.")
_EXPERTS = flags.DEFINE_integer("experts", 8, "Experts E.", 1)
_DIM = flags.DEFINE_integer("dim", 4096, "Width D.", 2)
_EXPERT_DIM = flags.DEFINE_integer("expert_dim", 14336, "Hidden width F.", 2)
_BUDGET = flags.DEFINE_float("budget", 0.25, "Part of the parameters that stays.", 1e-6, 1.0)
_LIMIT = flags.DEFINE_float("limit_gib", 12.0, "What the peak is compared with, in GiB.", 0.0)
_PATIENCE = flags.DEFINE_float("patience", 3600.0, "Seconds after which a method is given up.", 1.0)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file that the results are added to.")
_NOTE = flags.DEFINE_string("note", "", "What else the machine did; goes into the record.")
_INSIDE = flags.DEFINE_string("inside", None, "Used by this script for the process of one method.")

SHARED_FROM = 8192  # widths whose square matrices the experts share


def kernels(names: tuple[str, ...]) -> dict[str, Dense]:
    """Random kernels, made expert by expert."""
    draw, found = np.random.default_rng(0), {}
    for name in names:
        sizes = (_EXPERT_DIM.value, _DIM.value) if name == "down" else (_DIM.value, _EXPERT_DIM.value)
        bank = np.empty((_EXPERTS.value, *sizes), np.float32)
        for expert in bank:
            draw.standard_normal(out=expert, dtype=np.float32)
            expert /= np.sqrt(sizes[0])
        found[name] = Dense(jnp.asarray(bank))
    return found


def square(draw: np.random.Generator, width: int) -> np.ndarray:
    """Positive definite [E width width]: a sum over few rows and a diagonal."""
    experts = 1 if width >= SHARED_FROM else _EXPERTS.value
    found = np.empty((experts, width, width), np.float32)
    for one in found:
        rows = draw.standard_normal((256, width), np.float32)
        np.matmul(rows.T, rows, out=one)
        one[np.diag_indices(width)] += np.linspace(1, 100, width, dtype=np.float32)
    return np.broadcast_to(found, (_EXPERTS.value, width, width))


def statistics(kinds: tuple[str, ...], depth: int, width: int) -> LeafStatistics:
    """Random ones of these kinds for a bank [E depth width]."""
    draw, experts, found = np.random.default_rng(1), _EXPERTS.value, {}
    sizes = {"absolute": depth, "fisher_rows": depth, "output_sum": width, "output_square": width}
    for field in dict.fromkeys(field for kind in kinds for field in KINDS[kind]):
        if field in ("count", "examples"):
            found[field] = np.full(experts, 1e5)
        elif field == "rows":
            found[field] = draw.standard_normal((experts, 64, depth), np.float32)
        elif field in sizes:
            found[field] = draw.random((experts, sizes[field]), np.float32)
        else:
            found[field] = square(draw, width if field == "kronecker_out" else depth)
    return LeafStatistics(**found)


def measure(method: str) -> dict[str, Any]:
    """Runs one method in this process."""
    name, _, option = method.partition(":")
    key, _, value = option.partition("=")
    spec = build_method("compress", {"name": name, **({key: json.loads(value)} if option else {})})
    names = ("up", "gate", "down") if hasattr(spec, "compress_bank") else ("up",)
    experts: dict[str, Any] = kernels(names)
    own = {}
    for name, leaf in experts.items():
        own[f"experts/{name}"] = statistics(tuple(spec.needs), *leaf.kernel.shape[1:])
    rows = np.random.default_rng(2).standard_normal((64, _DIM.value), np.float32)
    own["router"] = LeafStatistics(count=np.float32(64), rows=rows)
    params = {"experts": experts, "router": {"kernel": jnp.asarray(rows[: _EXPERTS.value].T)}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    made = compress(params, method=spec, budget=_BUDGET.value, statistics=own, only="experts")
    jax.block_until_ready(jax.tree.leaves(made.params))
    seconds = time.perf_counter() - begin
    report = made.report
    return {
        "method": method, "kernels": list(names), "shape": [_EXPERTS.value, _DIM.value, _EXPERT_DIM.value],
        "budget": _BUDGET.value, "seconds": round(seconds, 1), "share": report.after / report.before,
        "gib_before": round(before / 2**20, 2),
        "gib_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "plain_error": [row.plain_error for row in report.weights], "own_error": [row.own_error for row in report.weights],
    }  # fmt: skip


def run(method: str) -> dict[str, Any]:
    """Runs one method in a process of its own; what it printed last, or why there is nothing."""
    command = [sys.executable, __file__, f"--inside={method}"]
    command += [f"--{flag.name}={flag.value}" for flag in (_EXPERTS, _DIM, _EXPERT_DIM, _BUDGET)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE.value)
    except subprocess.TimeoutExpired:
        return {"method": method, "failed": f"not done after {_PATIENCE.value:.0f} seconds"}
    if done.returncode:
        return {"method": method, "failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(_: list[str]) -> None:
    if _INSIDE.value:
        print(json.dumps(measure(_INSIDE.value)))
        return
    known = {name for name, cls in methods("compress").items() if not hasattr(cls, "convert")}
    chosen = _METHODS.value or sorted(known)
    if wrong := [name for name in chosen if name.partition(":")[0] not in known]:
        sys.exit(f"error: --methods: {wrong[0]!r} is unknown.{did_you_mean(wrong[0], known)}")
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    result = json.loads(path.read_text()) if path and path.exists() else {"rows": []}
    for method in chosen:
        row = run(method) | {"environment": environment(), "note": _NOTE.value}
        fits = f"peak {row['gib_peak']} of {_LIMIT.value:g} GiB" if "gib_peak" in row else row["failed"]
        print(f"{method}: {row.get('seconds', '-')} s, {fits}", flush=True)
        result["rows"] = [other for other in result["rows"] if other["method"] != method] + [row]
        if path:
            path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
