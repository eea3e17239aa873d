"""Dense DiT, DiT-MoE, expert-choice DiT and Soft DiT at equal activated FLOPs: loss, distances, precision and recall.

  python experiments/compare_dit.py --workdir runs/compare_dit
  python experiments/compare_dit.py --workdir runs/compare_dit --models dense,moe --steps 1000 --seeds 1

Runs are those of configs/dit/garments.py, as many side by side as there are cores, one core each, and the classifier of
configs/vit/garments.py that judges their samples; a run that has finished is not repeated, and one that was stopped goes on.
Writes NAME.json, NAME.md and NAME.png (NAME: --results).
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flag_errors
from absl import app, flags, logging
from shared_compilation import share_compiled
from side_by_side import Job, cores, run_or_exit

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"
MODELS = ("dense", "moe", "expert_choice", "soft")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs.")
_RESULTS = flags.DEFINE_string("results", None, "Where the results go, without an ending; default: WORKDIR/dit.")
_MODELS = flags.DEFINE_list("models", list(MODELS), "Which models.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of every model, seeds 0, 1, ...", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2000, "Training steps of every diffusion model.", lower_bound=1)
_PER_CLASS = flags.DEFINE_integer(
    "per_class", 100, "Pictures of each class that are sampled and scored.", lower_bound=1
)
_GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Scale of classifier-free guidance; 1 is none.", lower_bound=0.0)
_SMOKE = flags.DEFINE_boolean("smoke", False, "Two steps of tiny models: does everything work?")


def argument(model: str, seed: int) -> str:
    """The argument of configs/dit/garments.py for one run."""
    return f"model={model},seed={seed}," + ("smoke" if _SMOKE.value else f"steps={_STEPS.value}")


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; none where it has not begun."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(workdir: Path, names: dict[Path, tuple[Path, str]]) -> None:
    """Trains what has no test results; ends the program when a run fails or is stopped."""
    jobs = [
        Job(
            name=str(folder.relative_to(workdir)),
            command=[str(HERE / "train.py"), "--quiet", "--config", f"{config}:{arg}", "--workdir", str(folder)],
            folder=folder,
        )
        for folder, (config, arg) in names.items()
        if not any("test/loss" in row for row in rows(folder))
    ]  # fmt: skip
    print(f"{len(names)} runs, {len(jobs)} to go", flush=True)
    steps = 2 if _SMOKE.value else _STEPS.value
    run_or_exit(jobs, slots=min(cores(), len(jobs)), steps=steps)


def samples(folder: Path) -> Any:
    """The samples of a run, computed once."""
    from finished_runs import FinishedRun

    from moejax.core.spec import build_method
    from moejax.diffusion.guidance import Guidance
    from moejax.evals.sample_files import SampleFile, read_samples, write_samples
    from moejax.evals.sampling import Generator, labels_of, to_bytes

    path = folder / f"samples-{_GUIDANCE.value:g}-{_PER_CLASS.value}.npz"
    if not path.exists():
        print(f"sampling {folder}", flush=True)
        run = FinishedRun.load(folder)
        steps = 2 if _SMOKE.value else 20
        sampler = build_method("diffusion.samplers", {"name": "dpm_solver_pp", "num_steps": steps})
        generator = Generator(run.task, run.params, run.state, sampler, Guidance(scale=_GUIDANCE.value), 50)
        labels = labels_of(range(run.model.num_classes), _PER_CLASS.value)
        write_samples(path, SampleFile(to_bytes(generator.sample(labels, seed=0).x), labels))
    return read_samples(path)


def score(workdir: Path, folders: Sequence[Path]) -> Any:
    """Scores of all runs' samples against the test pictures, in the order of the runs."""
    from finished_runs import FinishedRun

    from moejax.evals.generation import compare
    from moejax.evals.reference_statistics import cached_reference

    judge = FinishedRun.load(workdir / "classifier")
    pictures = judge.dataset.examples("test")
    name = f"{judge.dataset.info.name}/test"
    reference = cached_reference(judge.features(), *pictures, name=name, folder=workdir / "reference")
    return compare(
        {f"{folder.parent.name}/{folder.name}": samples(folder) for folder in folders}, judge.features(), reference
    )


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    workdir = Path(str(_WORKDIR.value)).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    share_compiled(workdir)
    wanted = {workdir / m / f"seed_{s}": (m, s) for s in range(_SEEDS.value) for m in _MODELS.value}
    runs = {folder: (CONFIGS / "dit" / "garments.py", argument(*which)) for folder, which in wanted.items()}
    judge = {workdir / "classifier": (CONFIGS / "vit" / "garments.py", "smoke" if _SMOKE.value else "")}
    train(workdir, judge | runs)
    from model_cost import summary
    from step_times import read_config

    from moejax.evals import diffusion_comparison as comparison
    from moejax.evals import figure_style
    from moejax.evals.timing import environment

    scored, results = score(workdir, list(wanted)), []
    for (folder, (model, seed)), found in zip(wanted.items(), scored.rows, strict=True):
        cost = summary(read_config(*runs[folder]))
        losses = [(row["step"], row["train/loss"]) for row in rows(folder) if "train/loss" in row]
        results.append(
            comparison.DiffusionRun(
                model=model, seed=seed, loss=rows(folder)[-1]["test/loss"],
                curve=(tuple(s for s, _ in losses), tuple(v for _, v in losses)), scores=found,
                total_params=cost.total("params"), flops_per_example=cost.total("flops_per_example"),
            )
        )  # fmt: skip
    target, table = Path(_RESULTS.value or workdir / "dit"), comparison.table(results, scored.floor)
    facts = {"steps": _STEPS.value, "guidance": _GUIDANCE.value, "environment": environment(), "date": str(datetime.date.today())}  # fmt: skip
    content = comparison.to_json(results, scored.floor, **facts)
    target.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    target.with_suffix(".md").write_text(table)
    with figure_style.figure(15, 5) as canvas:
        comparison.draw(canvas, results, scored.floor)
        figure_style.save(canvas, target.with_suffix(".png"))
    print(table + f"\nwritten to {target}.json, .md and .png")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=flag_errors.parse)
