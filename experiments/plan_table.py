r"""Published models on TPU v5p slices of 8 to 256 chips: does the training step fit, what does it send, how long does it take.

  python experiments/plan_table.py
  python experiments/plan_table.py --only V-MoE --chips 8 --chips 256
  python experiments/plan_table.py --draw

Every case is planned by experiments/plan.py --fast in a process of its own, which needs the extra [tpu-aot]; its wall and CPU
seconds and its peak memory are in the row. Rows go to experiments/results/plan_v5p.json, the table and the picture beside it;
cases that are there already are not planned again (--again does). --draw plans nothing.

Each chip gets 64 pictures (V-MoE, Soft MoE; 64 chips have the published batch of 4096) or 32 latents (DiT-MoE). Experts lie over
as many chips as they divide, everything over the rest too (fsdp); blocks are recomputed (remat=full), arithmetic is bfloat16.
Exit codes: 0 done, 1 a case could not be planned, 2 a wrong option.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import flag_errors
from absl import app, flags
from recorded import RESULTS

from moejax.core.errors import SpecError
from moejax.planning import plan_rows

HERE = pathlib.Path(__file__).resolve().parent
# model -> config, pictures per chip, experts.
MODELS = {
    "V-MoE-H/14 every 2": ("vit/vmoe_paper.py:size=H/14,moe=every2,remat=full", 64, 32),
    "V-MoE-H/14 every 2, capacity 1.25": ("vit/vmoe_paper.py:size=H/14,moe=every2,remat=full,capacity=1.25", 64, 32),
    "V-MoE-15B/16 every 2": ("vit/vmoe_paper.py:size=15B/16,moe=every2,remat=full", 64, 32),
    "Soft MoE-H/14, 256 experts": ("vit/soft_moe_paper.py:size=H/14,experts=256,remat=full", 64, 256),
    "DiT-MoE-XL/2-8E2A": ("dit/dit_moe_paper.py:size=XL/2,experts=8,remat=full", 32, 8),
    "DiT-MoE-G/2-16E2A": ("dit/dit_moe_paper.py:size=G/2,experts=16,remat=full", 32, 16),
}
SLICES = {8: "2x2x2", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
NOTE = """TPU v5p, 95 GiB a chip; blocks are recomputed (remat=full), arithmetic is bfloat16. Times of a step are bounds from below by
the chips' data sheets; host seconds are wall (CPU) seconds of the process that compiled.
"""

_ONLY = flags.DEFINE_multi_string("only", None, "Models whose names hold this text; default: all.")
_CHIPS = flags.DEFINE_multi_enum("chips", [str(n) for n in SLICES], [str(n) for n in SLICES], "Sizes of the slices.")
_RESULTS = flags.DEFINE_string("results", str(RESULTS / "plan_v5p.json"), "JSON file; .md and .png lie beside it.")
_AGAIN = flags.DEFINE_boolean("again", False, "Plan cases again that the file holds.")
_DRAW = flags.DEFINE_boolean("draw", False, "Only write the table and the picture.")


def mesh_of(chips: int, experts: int) -> str:
    """Experts over as many chips as they divide, everything over the rest."""
    expert = min(chips, experts)
    return ",".join(f"{axis}={size}" for axis, size in (("fsdp", chips // expert), ("expert", expert)) if size > 1)


def planned(model: str, chips: int) -> dict[str, Any] | None:
    """The row of one case, planned by another process; None where it fails, whose errors are printed."""
    config, each, experts = MODELS[model]
    batch_size = each * chips
    command = [sys.executable, "plan.py", f"--config=../configs/{config}", f"--topology=v5p:{SLICES[chips]}",
               f"--mesh={mesh_of(chips, experts)}", f"--batch_size={batch_size}", "--fast", "--json"]  # fmt: skip
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=HERE)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        written, errors = out.read(), err.read()
    if process.returncode not in (0, 1) or not written:
        print(f"{model}, {chips} chips: exit code {process.returncode}\n{errors[-2000:]}", file=sys.stderr)
        return None
    found = json.loads(written)
    if not found["compiled"]:
        print("nothing was compiled; install the extra [tpu-aot].", file=sys.stderr)
        return None
    host = {"host_seconds": time.monotonic() - begin, "host_cpu_seconds": used.ru_utime + used.ru_stime,
            "host_bytes": used.ru_maxrss * 1024}  # fmt: skip
    case = {"model": model, "config": config, "topology": found["topology"], "chips": chips, "batch_size": batch_size}
    return case | host | found["meshes"][0]


def main(_: list[str]) -> None:
    path = pathlib.Path(_RESULTS.value)
    try:
        rows = {plan_rows.key(row): row for row in plan_rows.read(path)}
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    failed = False
    there = {(row["model"], row["chips"]) for row in rows.values()}
    wanted = [name for name in MODELS if any(text in name for text in _ONLY.value or [""])]
    for model, chips in ((model, int(chips)) for chips in _CHIPS.value for model in wanted):
        if _DRAW.value or ((model, chips) in there and not _AGAIN.value):
            continue
        row = planned(model, chips)
        failed |= row is None
        if row is not None:
            rows[plan_rows.key(row)] = row
            plan_rows.write(path, list(rows.values()))
            print(f"{model}, {chips} chips: {'fits' if row['fits'] else 'does not fit'}", flush=True)
    found = list(rows.values())
    path.with_suffix(".md").write_text(f"{NOTE}\n{plan_rows.markdown(found)}\n")
    plan_rows.draw(found, path.with_suffix(".png"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
