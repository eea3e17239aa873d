"""Work of one device in an MoE layer of V-MoE-H/14's size, compiled for 8 to 256 devices with one expert each.

  python experiments/weak_scaling.py
  python experiments/weak_scaling.py --chips cpu --devices 8 --devices 64 --output weak.json

Every device keeps 1024 tokens of 2 choices at capacity 1, exchanged in two levels (groups of --group neighbours). Nothing is
run: FLOPs and bytes are those of the compiled gradient, for chips that are not here (v5e, with the extra [tpu-aot]) or for
simulated devices (cpu; its compiler cuts an exchange into a copy per device and counts the whole array for each, so that
touched bytes grow there and are left out of the verdict). Writes weak_scaling.json and .md to --output's place.
Exit codes: 0 work stays within --tolerance of that of the fewest devices, 1 it does not, 2 a wrong option.
"""

import dataclasses
import json
import os
import pathlib
import sys

import flag_errors
from absl import app, flags
from recorded import RESULTS

SLICES = {8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
HEAD = ("devices", "GFLOP", "memory, MiB", "touched, MiB", "exchanged, MiB", "on the wire, MiB", "gradient sums, MiB")

_CHIPS = flags.DEFINE_enum("chips", "v5e", ["v5e", "cpu"], "What to compile for.")
_DEVICES = flags.DEFINE_multi_enum(
    "devices", [str(n) for n in SLICES], [str(n) for n in SLICES], "Numbers of devices, all along the expert axis."
)
_GROUP = flags.DEFINE_integer("group", 4, "Neighbours that exchange first.", 1)
_TOKENS = flags.DEFINE_integer("tokens", 1024, "Tokens of a device.", 1)
_DIM = flags.DEFINE_integer("dim", 1280, "Width D.", 1)
_HIDDEN = flags.DEFINE_integer("hidden", 5120, "Hidden width F of an expert.", 1)
_TOLERANCE = flags.DEFINE_float("tolerance", 0.05, "Of FLOPs, touched and exchanged bytes.", 0)
_OUTPUT = flags.DEFINE_string("output", str(RESULTS / "weak_scaling.json"), "JSON file; .md lies beside it.")


def layer(experts):
    """The MoE layer with so many experts."""
    from moejax.core.spec import build_spec
    from moejax.layers.moe import MoE

    router = {"name": "top_k", "num_experts": experts, "num_selected_experts": 2, "capacity_factor": 1.0}
    config = {"router": router, "experts": {"name": "mlp", "expert_dim": _HIDDEN.value}, "group_size": _TOKENS.value,
              "exchange": {"name": "all_to_all", "group": _GROUP.value}}  # fmt: skip
    return build_spec(MoE, config, path="layer")


def table(rows):
    """Markdown, a line per number of devices."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        sizes = (
            f"{size / 2**20:,.1f}"
            for size in (row["memory"], row["touched"], row["exchanged"], row["wire"], row["reduced"])
        )
        lines.append((str(row["devices"]), f"{row['flops'] / 1e9:,.2f}", *sizes))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(_):
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_OPTIMIZATION_LEVEL"] = "O0"
    numbers = sorted({int(n) for n in _DEVICES.value})
    count = f"--xla_force_host_platform_device_count={numbers[-1]} --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    import jax

    from moejax.core.errors import SpecError
    from moejax.planning import chips
    from moejax.planning.weak_scaling import work

    rows = []
    try:
        for n in numbers:
            cpu = _CHIPS.value == "cpu"
            devices = jax.devices()[:n] if cpu else chips.devices(f"{_CHIPS.value}:{SLICES[n]}")
            rows.append(dataclasses.asdict(work(devices, layer(n), tokens=_TOKENS.value, dim=_DIM.value)))
            print(rows[-1], flush=True)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    names = ("flops", "exchanged") + (() if _CHIPS.value == "cpu" else ("touched",))
    growth = {name: max(abs(row[name] / rows[0][name] - 1) for row in rows) for name in names}
    found = {
        "chips": _CHIPS.value,
        "group": _GROUP.value,
        "tokens": _TOKENS.value,
        "dim": _DIM.value,
        "hidden": _HIDDEN.value,
    }
    path = pathlib.Path(_OUTPUT.value)
    path.write_text(json.dumps(found | {"largest_change": growth, "rows": rows}, indent=1) + "\n")
    told = ", ".join(f"{name} {100 * value:.1f} %" for name, value in growth.items())
    path.with_suffix(".md").write_text(f"{table(rows)}\n\nLargest change: {told}.\n")
    print(f"{table(rows)}\n\nlargest change: {told}")
    sys.exit(0 if max(growth.values()) <= _TOLERANCE.value else 1)


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
