"""Runs a study of estimation rates, or goes on with an interrupted one; or runs all of them and writes the report.

  python experiments/theory.py --config configs/theory/exact_softmax.py --workdir runs/theory/exact_softmax
  python experiments/theory.py --all --workdir runs/theory
  python experiments/theory.py --all --workdir runs/theory --only modulus,top_1

The workdir gets config.json, parts/*.npz (raw estimates of every replicate), study.json, table.md and chart.png; parts that are
there are not made again. --all runs every file of configs/theory, as many side by side as there are cores, one core each, prints
the time of each, and writes theory_report.html; a study that fails is named there and the others go on.
Exit codes: 0 done, 1 a study failed, 2 a config that cannot be built or a folder of another study.
"""

import shlex
import sys
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from ml_collections import config_flags
from shared_compilation import share_compiled
from side_by_side import Job, cores, run_side_by_side

from moejax.core.errors import SpecError, did_you_mean

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs" / "theory"

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:arguments] of a study; see configs/theory.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study; with --all, of all of them.")
_ALL = flags.DEFINE_boolean("all", False, "Runs every study and writes WORKDIR/theory_report.html.")
_ONLY = flags.DEFINE_list("only", None, "With --all: these studies alone.")
_SMOKE = flags.DEFINE_boolean("smoke", False, "With --all: the smallest sizes. Does everything work?")
_QUIET = flags.DEFINE_boolean("quiet", False, "No progress bar.")


def run_one() -> None:
    """The study of --config."""
    from moejax.core.spec import build_method
    from moejax.evals import study_tables
    from moejax.evals.study_runs import run_study

    config = _CONFIG.value.to_dict()
    try:
        study = build_method("theory.studies", config)
        name = config.pop("name")
        command = shlex.join(["python", "experiments/theory.py", *sys.argv[1:]])
        run = run_study(
            study, str(_WORKDIR.value), name=name, config=config, command=command, progress=not _QUIET.value
        )
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(study_tables.table(run.findings))
    print(f"{name}: {run.seconds:.1f} s; {_WORKDIR.value}/chart.png")


def run_all(workdir: Path) -> int:
    """Every study, then the report. Returns the number of those that failed."""
    from moejax.evals.study_report import write_study_report
    from moejax.evals.study_runs import read_study

    share_compiled(workdir)
    known = sorted(path.stem for path in CONFIGS.glob("*.py"))
    names = _ONLY.value or known
    if wrong := [name for name in names if name not in known]:
        sys.exit(f"error: --only: {wrong[0]!r} is no study.{did_you_mean(wrong[0], known)}")
    argument = ":smoke" if _SMOKE.value else ""
    jobs = [
        Job(
            name=name,
            command=[str(HERE / "theory.py"), "--quiet", "--config", f"{CONFIGS / name}.py{argument}",
                     "--workdir", str(workdir / name)],
            folder=workdir / name,
        )
        for name in names
    ]  # fmt: skip
    run_side_by_side(jobs, slots=min(cores(), len(jobs)), steps=None, keep_going=True)
    if any(job.code is None for job in jobs):
        sys.exit("interrupted; the same command goes on from here.")
    runs, missing = [], {}
    for job in jobs:
        if job.code:
            last = (job.log.read_text().strip().splitlines() or ["no output"])[-1]
            missing[job.name] = f"exit code {job.code}: {last}"
            continue
        runs.append(read_study(job.folder))
        print(f"{job.name}: {runs[-1].seconds:.1f} s")
    for name, why in missing.items():
        print(f"{name} failed, {why}", file=sys.stderr)
    print(f"written to {write_study_report(runs, workdir / 'theory_report.html', missing=missing)}")
    return len(missing)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if _ALL.value == (_CONFIG.value is not None):
        print("error: give --config FILE, or --all.", file=sys.stderr)
        sys.exit(2)
    if _ALL.value:
        workdir = Path(str(_WORKDIR.value))
        workdir.mkdir(parents=True, exist_ok=True)
        sys.exit(1 if run_all(workdir) else 0)
    run_one()


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=flag_errors.parse)
