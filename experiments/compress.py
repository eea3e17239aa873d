"""Compresses a finished run and measures what it cost and gave; or compares methods, budgets and calibration seeds.

  python experiments/compress.py --config configs/compress/run.py:method=svd_llm,budget=0.5 --checkpoint runs/vmoe \
      --workdir runs/vmoe_half
  python experiments/compress.py --config configs/compress/run.py --checkpoint runs/vmoe --workdir sweeps/vmoe --sweep

The first writes a run (of a classifier, a diffusion or a language model) that evaluate.py and report.py read, and train.py trains
further (train.init_from), with compress.json and compress.md beside it. The second writes sweep.json, sweep.md and sweep.png;
the same command goes on where it was stopped. Exit codes: 0 done, 1 no usable checkpoint, 2 what cannot be built.
"""

import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import flag_errors
import jax
import minilm_subject
from absl import app, flags, logging
from finished_runs import FinishedRun
from ml_collections import config_flags

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.segments import split_segments
from moejax.core.spec import build_spec
from moejax.evals import compression_report, single_compression
from moejax.evals.compression_cells import measure_cell
from moejax.evals.compression_subject import Subject
from moejax.evals.compression_sweep import Sweep, run_sweep, setting_of
from moejax.evals.diffusion_subject import DiffusionSubject
from moejax.evals.language_subject import LanguageSubject
from moejax.evals.task_subject import TaskSubject, default_weights
from moejax.evals.timing import environment
from moejax.evals.vision_subject import VisionSubject
from moejax.tasks.classification import Classification
from moejax.tasks.diffusion import Diffusion
from moejax.tasks.language import Language
from moejax.train.checkpoints import CheckpointError
from moejax.train.compressed_run import write_run
from moejax.train.heal import Heal, heal
from moejax.train.memory import keep_freed_memory
from moejax.train.restructured import build_task, plain_task

SUBJECTS = ("run", "minilm")
KINDS = {Classification: VisionSubject, Diffusion: DiffusionSubject, Language: LanguageSubject}

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:arguments] of the config; see configs/compress/.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the run to compress.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint; by default the one that the run's test took.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder to write to.")
_SWEEP = flags.DEFINE_boolean("sweep", False, "Compare all methods instead of writing one compressed run.")


def subject_of(config: dict[str, Any], run: FinishedRun) -> TaskSubject:
    """The subject that a run is, with one tree per layer. Raises SpecError for a run whose task has none."""
    params, state = split_segments(run.params), split_segments(run.state)
    kind = KINDS.get(type(plain_task(run.task)))
    if kind is None:
        raise SpecError(
            f"--checkpoint {run.workdir}: runs of task {run.config['task']['name']!r} cannot be compressed."
        )
    return kind(
        name=run.workdir.name,
        task=build_task(run.config),
        params=params,
        state=state,
        dataset=run.dataset,
        only=config["only"] or default_weights(params),
        examples=config["examples"],
        batch_size=min(64, run.dataset.pipeline.eval_batch_size),
    )


def sweep(config: dict[str, Any], subject: Subject, workdir: Path) -> None:
    """All cells, the table and the picture."""
    begin = time.perf_counter()
    result = run_sweep(subject, build_spec(Sweep, config["sweep"], path="config.sweep"), workdir)
    table, picture = compression_report.write_report(result, workdir)
    print(f"{len(result['cells'])} cells in {time.perf_counter() - begin:.0f} s; written: {table}, {picture}")


def single(config: dict[str, Any], run: FinishedRun, subject: TaskSubject, workdir: Path) -> None:
    """One compressed run, with its report."""
    spec = build_spec(Heal, config["heal"], path="config.heal")
    setting = setting_of(config["method"], config["budget"], unit=config["unit"], allocation=config["allocation"])
    kinds = tuple(dict.fromkeys([*setting.kinds(), "second_moment"]))
    statistics = subject.collect(kinds, seed=config["seed"]).statistics
    cell, params = measure_cell(subject, setting, statistics, seed=config["seed"])
    if params is None:
        raise SpecError(cell["unreachable"])
    stages, healing = {"before": subject.params, "after": params}, None
    if spec.steps:
        batches = itertools.cycle(run.dataset.train_iterator(seed=config["seed"] + 1))
        healed = heal(spec, subject.task, params, subject.state, subject.params, batches)
        stages["healed"] = healed.params
        healing = dataclasses.asdict(spec) | {"first": healed.first, "last": healed.last, "seconds": healed.seconds}
    measured = single_compression.compare(subject, stages, rounds=config["sweep"]["rounds"])
    last = list(stages)[-1]
    row = {f"test/{name}": measured[last]["quality"][name] for name in subject.reported}
    write_run(workdir, run.config, stages[last], subject.state, step=run.step, row=row)
    result = {
        "subject": subject.name, "setting": dataclasses.asdict(setting), "seed": config["seed"], "stages": measured,
        "healing": healing, "environment": environment(), **{k: cell[k] for k in ("seconds", "share", "weights", "warnings")},
    }  # fmt: skip
    (workdir / "compress.json").write_text(json.dumps(result, indent=1) + "\n")
    (workdir / "compress.md").write_text(single_compression.markdown(result))
    print((workdir / "compress.md").read_text())


def compress(config: dict[str, Any], checkpoint: str | None, workdir: str, *, which: str | None, compare: bool) -> None:
    """What the flags ask for. Raises SpecError and CheckpointError."""
    if config["subject"] not in SUBJECTS:
        raise SpecError(f"config.subject={config['subject']!r} is unknown.{did_you_mean(config['subject'], SUBJECTS)}")
    if config["subject"] == "minilm":
        if not compare:
            raise SpecError(
                "the packaged encoder is no run that could be written; add --sweep to compare methods on it."
            )
        return sweep(config, minilm_subject.build(), Path(workdir))
    if checkpoint is None:
        raise SpecError("--checkpoint is needed: the folder of the run to compress.")
    run = FinishedRun.load(checkpoint, which)
    subject = subject_of(config, run)
    if compare:
        return sweep(config, subject, Path(workdir))
    return single(config, run, subject, Path(workdir))


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    # Programs of one shape are compiled once, though every statistic and every cell is a function of its own.
    jax.config.update("jax_compilation_cache_dir", str(Path(str(_WORKDIR.value)) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        compress(
            _CONFIG.value.to_dict(), _CHECKPOINT.value, str(_WORKDIR.value), which=_WHICH.value, compare=_SWEEP.value
        )
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=flag_errors.parse)
