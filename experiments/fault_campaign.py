"""Kills training at random moments, damages checkpoints, types wrong things; counts what survives.

  python experiments/fault_campaign.py --workdir /tmp/faults --results experiments/results/fault_campaign.json
  python experiments/fault_campaign.py --render experiments/results/fault_campaign.json --report docs/fault_campaign.md

The processes are those of experiments/train.py: forks of this one, which has imported everything and has not started jax. Each
starts jax by itself, and is killed by SIGKILL. Exit code: 0 when nothing was lost, 1 when something was, 2 a wrong command.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flag_errors
from absl import app, flags

from moejax.core.errors import SpecError, did_you_mean

HERE = Path(__file__).resolve().parent

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs, empty or new.")
_KILLS = flags.DEFINE_integer("kills", 200, "SIGKILLs.", lower_bound=1)
_DAMAGES = flags.DEFINE_integer("corruptions", 60, "Damaged checkpoints.", lower_bound=4)
_INPUTS = flags.DEFINE_integer("bad_inputs", 60, "Wrong commands.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random moments and places.")
_RESULTS = flags.DEFINE_string("results", None, "JSON file for the results; default: WORKDIR/fault_campaign.json.")
_PARTS = flags.DEFINE_list(
    "parts", ["typed", "damaged", "killed"], "Which to run; others stay as they are in --results."
)
_RENDER = flags.DEFINE_string("render", None, "Make the page from this JSON file, and do nothing else.")
_REPORT = flags.DEFINE_string("report", None, "Markdown file for the page; default: beside the JSON file.")


# The smallest processes: compiled fast rather than well, on one core.
XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_multi_thread_eigen=false"


def prepare(workdir: Path) -> float:
    """Imports what experiments/train.py imports, without starting jax; the processor seconds that forks are spared."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process with several threads cannot be forked
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA}".strip()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(workdir / "compiled")  # compiled once for all
    for name in ("MIN_COMPILE_TIME_SECS", "MIN_ENTRY_SIZE_BYTES"):
        os.environ[f"JAX_PERSISTENT_CACHE_{name}"] = "0"
    for module in ("ml_collections.config_flags", "moejax.data.opening", "moejax.train.loop", "moejax.train.verify"):
        importlib.import_module(module)
    seconds = time.process_time()
    from moejax.core.spec import methods

    for room in ("routing", "experts", "dispatch", "exchange", "models"):
        methods(room)
    return seconds


def campaign(workdir: Path, results: Path) -> dict[str, Any]:
    """Runs it. Raises SpecError where the folder already holds something."""
    if workdir.exists() and any(workdir.iterdir()):
        raise SpecError(f"--workdir={workdir} is not empty; give a new folder.")
    for part in _PARTS.value:
        if part not in (known := ("typed", "damaged", "killed")):
            raise SpecError(f"--parts={part}: no part of a campaign.{did_you_mean(part, known)}")
    workdir.mkdir(parents=True, exist_ok=True)
    imports = prepare(workdir)
    from moejax.train.faults.campaign import Campaign

    counts = {"kills": _KILLS.value, "damages": _DAMAGES.value, "inputs": _INPUTS.value, "seed": _SEED.value}
    return Campaign(experiments=HERE, workdir=workdir, results=results, import_seconds=imports, **counts).run(
        _PARTS.value
    )


def main(_: Sequence[str]) -> None:
    try:
        if _RENDER.value:
            target, found = Path(_RENDER.value), json.loads(Path(_RENDER.value).read_text())
        else:
            workdir = Path(str(_WORKDIR.value)).resolve()
            target = Path(_RESULTS.value or workdir / "fault_campaign.json").resolve()
            found = campaign(workdir, target)
    except (SpecError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from moejax.train.faults import report

    if missing := {"typed", "damaged", "killed"} - found.keys():
        print(f"written to {target}; no page yet, without {', '.join(sorted(missing))}")
        return
    page = Path(_REPORT.value or target.with_suffix(".md"))
    page.write_text(report.page(found))
    print(f"written to {target} and {page}")
    sys.exit(0 if report.is_clean(found) else 1)


if __name__ == "__main__":
    needs = flags.register_multi_flags_validator
    needs(["workdir", "render"], lambda given: bool(given["workdir"]) != bool(given["render"]), "give one of them")
    app.run(main, flags_parser=flag_errors.parse)
