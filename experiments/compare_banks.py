"""Expert banks trained from scratch against the dense bank, at equal parameters and at equal activated FLOPs.

  python experiments/compare_banks.py --workdir runs/banks
  python experiments/compare_banks.py --workdir runs/banks --banks dense,latent,low_rank --steps 1000 --seeds 1

Runs are those of configs/vit/factorised.py, as many side by side as there are cores, one core each; a run that has finished
is not repeated, and one that was stopped goes on. Writes NAME.json, NAME.md and NAME.png (NAME: --results).
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from shared_compilation import share_compiled
from side_by_side import Job, cores, pinned, run_or_exit

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "vit" / "factorised.py"
BANKS = ("dense", "low_rank", "heterogeneous", "latent", "basis", "cp", "tensor_ring", "mpo", "residual", "modulated",
         "product_keys", "fine_grained")  # fmt: skip

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs.")
_RESULTS = flags.DEFINE_string("results", None, "Where the results go, without an ending; default: WORKDIR/factorised.")
_BANKS = flags.DEFINE_list("banks", list(BANKS), "Which banks.")
_MATCHES = flags.DEFINE_list("matches", ["params", "flops"], "What they have in common with the dense bank.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of every bank, seeds 0, 1, ...", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2000, "Training steps of every run.", lower_bound=1)
_SMOKE = flags.DEFINE_boolean("smoke", False, "Two steps of tiny models: does everything work?")


def configs(banks: Sequence[str], matches: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Config name -> bank, what it matches, and the config's argument; sizes that match both ways come once."""
    from step_times import read_config

    found: dict[str, tuple[str, tuple[str, ...], str]] = {}
    for bank in banks:
        for match in matches:
            argument = f"bank={bank},match={match},{'smoke' if _SMOKE.value else f'steps={_STEPS.value}'}"
            name = read_config(CONFIG, argument)["name"]
            known = found.get(name, (bank, (), argument))
            found[name] = (bank, (*known[1], match), known[2])
    return found


def train(workdir: Path, wanted: dict[str, tuple[str, tuple[str, ...], str]]) -> None:
    """Trains what is not finished; ends the program when a run fails or is stopped."""
    from moejax.evals.runs import finished_run

    jobs = [
        Job(
            name=f"{name} {seed}",
            command=[str(HERE / "train.py"), "--quiet", "--config", f"{CONFIG}:{argument},seed={seed}",
                     "--workdir", str(workdir / name / f"seed_{seed}")],
            folder=workdir / name / f"seed_{seed}",
        )
        for seed in range(_SEEDS.value)
        for name, (_, _, argument) in wanted.items()
        if finished_run(workdir / name / f"seed_{seed}") is None
    ]  # fmt: skip
    print(f"{len(wanted)} models x {_SEEDS.value} seeds; {len(jobs)} runs to go", flush=True)
    steps = 2 if _SMOKE.value else _STEPS.value
    run_or_exit(jobs, slots=min(cores(), len(jobs)), steps=steps)


def step_milliseconds(workdir: Path, wanted: dict[str, tuple[str, tuple[str, ...], str]]) -> dict[str, float]:
    """Median time of a training step of every model on one core, models in turn; measured once per folder."""
    path = workdir / "timing.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if not wanted.keys() <= known.keys():
        with pinned(0):
            from step_times import measure, read_config

            read = {name: read_config(CONFIG, argument) for name, (_, _, argument) in wanted.items()}
            print(f"measuring the step of {len(read)} models", flush=True)
            known = measure(read, rounds=1 if _SMOKE.value else 7).milliseconds
        path.write_text(json.dumps(known, indent=1))
    return known


def collect(workdir: Path, wanted: dict[str, tuple[str, tuple[str, ...], str]], milliseconds: dict[str, float]) -> list:
    """What came out, a Bank of every model."""
    from model_cost import summary
    from step_times import read_config

    from moejax.evals.bank_comparison import Bank, accuracy_by_domain
    from moejax.evals.runs import read_run

    banks = []
    for name, (bank, matches, argument) in wanted.items():
        records = [read_run(workdir / name / f"seed_{seed}").record for seed in range(_SEEDS.value)]
        cost = summary(read_config(CONFIG, argument))
        costs = {field: cost.total(field) for field in ("activated_params", "flops_per_example")}
        banks.append(
            Bank(bank=bank, matches=matches, accuracy=accuracy_by_domain(records), steps=records[0].steps,
                 total_params=cost.total("params"), milliseconds=milliseconds[name], **costs)
        )  # fmt: skip
    return banks


def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    workdir = Path(str(_WORKDIR.value))
    workdir.mkdir(parents=True, exist_ok=True)
    share_compiled(workdir)
    wanted = configs(_BANKS.value, _MATCHES.value)
    train(workdir, wanted)
    milliseconds = step_milliseconds(workdir, wanted)
    from moejax.evals import bank_comparison, figure_style
    from moejax.evals.timing import environment

    banks = collect(workdir, wanted, milliseconds)
    target = Path(_RESULTS.value or workdir / "factorised")
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = {"seeds": _SEEDS.value, "environment": environment(), "date": str(datetime.date.today())}
    target.with_suffix(".json").write_text(json.dumps(bank_comparison.to_json(banks, **facts), indent=1) + "\n")
    target.with_suffix(".md").write_text(bank_comparison.table(banks))
    with figure_style.figure(14, 8) as canvas:
        bank_comparison.draw(canvas, banks)
        figure_style.save(canvas, target.with_suffix(".png"))
    print(bank_comparison.table(banks) + f"\nwritten to {target}.json, .md and .png")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=flag_errors.parse)
