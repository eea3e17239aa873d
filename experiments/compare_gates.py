"""A V-MoE of the demo trained with every gate that the theory studies, beside the gate's theoretical rates.

  python experiments/compare_gates.py --workdir runs/gates
  python experiments/compare_gates.py --workdir runs/gates --gates linear,cosine --steps 500 --seeds 1

Runs are those of configs/vit/patchwork.py:model=vmoe,gate=GATE, as many side by side as there are cores, one core each; a run that
has finished is not repeated, and one that was stopped goes on. Writes NAME.json and NAME.md (NAME: --results).
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from shared_compilation import share_compiled
from side_by_side import Job, cores, run_or_exit

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "vit" / "patchwork.py"
GATES = ("softmax", "linear", "temperature", "sigmoid", "cosine", "laplace", "gaussian")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs.")
_RESULTS = flags.DEFINE_string("results", None, "Where the results go, without an ending; default: WORKDIR/gates.")
_GATES = flags.DEFINE_list("gates", list(GATES), "Which gates.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of every gate, seeds 0, 1, ...", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 1000, "Training steps of every run.", lower_bound=1)
_SMOKE = flags.DEFINE_boolean("smoke", False, "Two steps of tiny models: does everything work?")


def argument(gate: str) -> str:
    """Of the config, for one gate."""
    return f"model=vmoe,gate={gate},{'smoke' if _SMOKE.value else f'steps={_STEPS.value}'}"


def train(folders: dict[Path, tuple[str, int]]) -> None:
    """Trains what is not finished; ends the program when a run fails or is stopped."""
    from moejax.evals.runs import finished_run

    jobs = [
        Job(
            name=f"{gate} {seed}",
            command=[str(HERE / "train.py"), "--quiet", "--config", f"{CONFIG}:{argument(gate)},seed={seed}",
                     "--workdir", str(folder)],
            folder=folder,
        )
        for folder, (gate, seed) in folders.items()
        if finished_run(folder) is None
    ]  # fmt: skip
    print(f"{len(folders)} runs, {len(jobs)} to go", flush=True)
    run_or_exit(jobs, slots=min(cores(), max(len(jobs), 1)), steps=2 if _SMOKE.value else _STEPS.value)


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    workdir = Path(str(_WORKDIR.value)).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    share_compiled(workdir)
    from step_times import read_config

    for gate in _GATES.value:  # a misspelt one is named before any is trained
        read_config(CONFIG, argument(gate))
    train({workdir / gate / f"seed_{seed}": (gate, seed) for seed in range(_SEEDS.value) for gate in _GATES.value})
    from model_cost import summary

    from moejax.evals import gate_comparison
    from moejax.evals.bank_comparison import accuracy_by_domain
    from moejax.evals.runs import read_run
    from moejax.evals.timing import environment

    rows = []
    for gate in _GATES.value:
        records = [read_run(workdir / gate / f"seed_{seed}").record for seed in range(_SEEDS.value)]
        flops = summary(read_config(CONFIG, argument(gate))).total("flops_per_example")
        accuracy = accuracy_by_domain(records)
        rows.append(
            gate_comparison.GateRow(gate=gate, accuracy=accuracy, steps=records[0].steps, flops_per_example=flops)
        )
    target = Path(_RESULTS.value or workdir / "gates")
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = {"seeds": _SEEDS.value, "environment": environment(), "date": str(datetime.date.today())}
    target.with_suffix(".json").write_text(json.dumps(gate_comparison.to_json(rows, **facts), indent=1) + "\n")
    target.with_suffix(".md").write_text(gate_comparison.table(rows))
    print(gate_comparison.table(rows) + f"\nwritten to {target}.json and .md")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=flag_errors.parse)
