"""The training loop: from built parts and one frozen spec to a trained model, its records and its checkpoints.

The Python side of a step is one call: metrics stay on the device until a row is due. Source: ours.
"""

import dataclasses
import json
import logging
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.sharding.processes import is_writer
from moejax.sharding.table import placed, table
from moejax.train.changed_config import check_same
from moejax.train.checkpoints import Checkpoints, Restored
from moejax.train.disk import write_whole, writing
from moejax.train.environment import record_start
from moejax.train.evaluation import build_evaluator
from moejax.train.guard import check_skips, host_values
from moejax.train.initialise import initialise_from, read_source
from moejax.train.live_table import LiveTable
from moejax.train.lock import Lock
from moejax.train.optimizers import Optimizer
from moejax.train.prefetch import Prefetch
from moejax.train.program import Program
from moejax.train.records import Records, Row, is_final, read_rows
from moejax.train.signals import Signals
from moejax.train.spec import Train, check_splits
from moejax.train.state import TrainState
from moejax.train.stored_leaves import fill
from moejax.train.wandb_run import check_installed

logger = logging.getLogger(__name__)


class LostProcessError(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


@dataclasses.dataclass(frozen=True)
class Result:
    """row: the final row, or None when the run was stopped by `signal`. step: steps done."""

    step: int
    row: Row | None
    signal: int | None = None


class _InterruptedError(Exception):
    """A signal came in the middle of an evaluation."""


def run(
    task: Any,
    data: Any,
    optimizer: Optimizer,
    spec: Train,
    *,
    workdir: str | pathlib.Path,
    config: Mapping[str, Any],
    seed: int,
    allow_change: bool = False,
    grace_seconds: float | None = None,
) -> Result:
    """Trains, or goes on where `workdir` stopped. Returns at the end, or after SIGTERM or SIGINT with all saved.

    data: a Dataset. config: JSON-able, written to config.json and into every checkpoint; going on with another one needs
    `allow_change` (`changed_config.py` says what is free). grace_seconds: see `Signals`.
    Raises SpecError before compilation, and before anything is written to a new workdir, for what does not fit; BusyError where
    another run holds the workdir; NonFiniteError, CheckpointError, DiskError; LostProcessError where several processes run and
    the devices of another no longer answer.
    """
    check_splits(spec, data.info)
    check_installed(spec.wandb)
    program = Program(task, optimizer, spec, seed=seed, batch_size=data.batch_size)
    part, parts = program.part
    share = {"num_processes": parts, "process": part} if parts > 1 else {}
    iterator = data.train_iterator(seed=seed, **share)
    workdir = pathlib.Path(workdir).absolute()
    source = None
    if not (workdir / "checkpoints").exists():
        # What does not fit says so at once, before anything is compiled or written.
        if spec.init_from is not None:
            source = read_source(spec.init_from, spec.init_which)
            how: dict[str, Any] = {"reinitialise": spec.reinitialise, "rules": spec.init_rules}
            initialise_from(program.template.params, program.template.state, source, **how)
        first = iterator.get_state()
        program.check(next(iterator))
        iterator.set_state(first)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with (
        Lock(workdir),
        Checkpoints(
            workdir / "checkpoints", keep_last=spec.keep_last, keep_best=spec.keep_best, best_mode=spec.best_mode
        ) as checkpoints,
        Signals(grace_seconds) as signals,
    ):
        loop = _Loop(task, data, iterator, share, program, spec, workdir, dict(config), seed, checkpoints, signals)
        with jax.set_mesh(program.mesh):
            try:
                return loop.run(source, allow_change)
            except jax.errors.JaxRuntimeError as error:
                if jax.process_count() == 1:
                    raise
                raise LostProcessError(_lost(error, workdir)) from error


def _lost(error: Exception, workdir: pathlib.Path) -> str:
    first = str(error).strip().splitlines()[0][:300]
    return (
        f"process {jax.process_index()} of {jax.process_count()} stops: another process has ended or its devices no longer "
        f"answer ({first}). Start the same command in all of them; the run goes on from the last checkpoint in {workdir}."
    )


def say(line: str) -> None:
    """Prints, in one process of all."""
    if is_writer():
        print(line, flush=True)


class _Loop:
    """One run. Holds the parts; the numbers travel in TrainState and `progress`."""

    def __init__(
        self, task: Any, data: Any, iterator: Any, share: dict[str, int], program: Program, spec: Train, workdir: pathlib.Path,
        config: dict[str, Any], seed: int, checkpoints: Checkpoints, signals: Signals,
    ) -> None:  # fmt: skip
        self.data, self.spec, self.workdir, self.config, self.seed = data, spec, workdir, config, seed
        self.checkpoints, self.signals, self.program = checkpoints, signals, program
        self.iterator, self._share = iterator, share
        if self.program.mesh.size > 1 and is_writer():
            print(table(placed(self.program.template, self.program.shardings)), flush=True)
        self.template = self.program.template
        self.evaluate = build_evaluator(task, data.info, self.program.place, self.program.everywhere)

    def run(self, source: Restored | None, allow_change: bool) -> Result:
        state, progress = self._start(source, allow_change)
        step = int(progress["step"])
        if step == self.spec.steps and (
            done := [row for row in read_rows(self.workdir / "metrics.jsonl") if is_final(row)]
        ):
            say(f"{self.workdir}: all {step} steps are done; nothing to do.")
            return Result(step, done[-1])
        if is_writer():
            write_whole(self.workdir / "config.json", json.dumps(self.config, indent=2) + "\n")
            record_start(self.workdir, step=step, seed=self.seed, mesh=dict(self.program.mesh.shape))
        self.records = Records(
            self.workdir,
            step=step,
            tensorboard=self.spec.tensorboard,
            writes=is_writer(),
            unlogged="unlogged" in progress,
            config=self.config,
            metric=self.spec.best_metric,
            wandb=self.spec.wandb,
        )
        try:
            state, stopped = self._train(state, progress)
            if not stopped:
                try:
                    return Result(self.spec.steps, self._test(state, progress))
                except _InterruptedError:
                    pass
            step = progress["step"]
            say(f"stopped by signal {self.signals.received} at step {step}; the same command goes on from there.")
            return Result(step, None, self.signals.received)
        finally:
            self.records.close()

    def _start(self, source: Restored | None, allow_change: bool) -> tuple[TrainState, dict[str, Any]]:
        """The state to begin with: restored, loaded from another run, or fresh."""
        restored = self.checkpoints.restore(self.template, shardings=self.program.shardings)
        if restored is not None:
            for line in check_same(
                restored.meta["config"], self.config, workdir=self.workdir, allow_change=allow_change
            ):
                say(f"  the config has changed, as --allow-change allows: {line}")
            progress = {"skipped": [], **restored.meta["progress"], "score": None}
            self.iterator.set_state(progress["data"])
            say(f"resuming {self.workdir} from step {restored.step}")
            return jax.device_put(fill(self.template, restored.leaves), self.program.shardings), progress
        state = self.program.init()
        if source is None and self.spec.init_from is not None:  # a run that was killed before its first checkpoint
            source = read_source(self.spec.init_from, self.spec.init_which)
        if source is not None:
            how: dict[str, Any] = {"reinitialise": self.spec.reinitialise, "rules": self.spec.init_rules}
            params, model_state = initialise_from(state.params, state.state, source, **how)
            copies = jax.tree.map(np.array, params) if state.ema is not None else None
            state = jax.device_put(
                dataclasses.replace(state, params=params, state=model_state, ema=copies), self.program.shardings
            )
        first = {
            "step": 0,
            "data": self.iterator.get_state(),
            "elapsed": 0.0,
            "window": [],
            "score": None,
            "skipped": [],
        }
        return state, first

    def _train(self, state: TrainState, progress: dict[str, Any]) -> tuple[TrainState, bool]:
        """The state after the last step, or where a signal stopped the run (True); all is saved."""
        spec, step = self.spec, progress["step"]
        pending: list[tuple[int, dict[str, jax.Array]]] = []
        begin = time.monotonic() - progress["elapsed"]
        saved = step
        # A signal came in the middle of the evaluation that this row waits for.
        stopped = "unlogged" in progress and not self._report(state, progress)
        if (score := progress["score"]) is not None and self._due(step)[2]:
            self.checkpoints.rescore(step, score)
        batches = Prefetch(self.iterator, self.program.place)
        view = LiveTable(steps=spec.steps, step=step, metric=spec.best_metric, shown=spec.progress and is_writer())
        since, count = time.monotonic(), 0
        try:
            while step < spec.steps and not (stopped := stopped or self.signals.stop()):
                batch, position = next(batches)
                state, metrics = self.program.step(state, batch)
                step, count = step + 1, count + counted(batch)[1]
                pending.append((step, metrics))
                view.advance()
                if not any(self._due(step)):
                    continue
                view.health(metrics)
                self._collect(pending, state.params, progress)
                now = time.monotonic()
                progress |= {"step": step, "data": position, "elapsed": now - begin, "score": None}
                if any(self._due(step)[:2]):
                    progress["unlogged"] = [counted(batch)[0], count / max(now - since, 1e-9)]
                    stopped = not self._report(state, progress, view)
                if self._due(step)[2]:
                    self._save(state, progress, wait=step == spec.steps)
                    saved = step
                since, count = time.monotonic(), 0
            if step > saved:
                self._collect(pending, state.params, progress)
                if step > progress["step"]:
                    progress |= {"step": step, "data": position}
                # No score: an undisturbed run has no checkpoint here that could be the best.
                progress |= {"elapsed": time.monotonic() - begin, "score": None}
                self._save(state, progress, wait=True)
            self.checkpoints.wait()
            return state, stopped
        finally:
            batches.close()
            view.close()

    def _due(self, step: int) -> tuple[bool, bool, bool]:
        """Whether a row, an evaluation and a checkpoint are due after `step`."""
        spec = self.spec
        log, evaluate, save = (
            spec.due(every, step) for every in (spec.log_every, spec.eval_every, spec.checkpoint_every)
        )
        return log, evaluate, save

    def _report(self, state: TrainState, progress: dict[str, Any], view: LiveTable | None = None) -> bool:
        """Writes the row that is due and empties the window; False, with nothing written, where a signal interrupts it."""
        step = progress["step"]
        row = self._train_row(progress)
        if self._due(step)[1] and self.spec.eval_split is not None:
            try:
                row |= self._valid_row(state)
            except _InterruptedError:
                return False
            progress["score"] = self._score(row)
        self.records.write(row)
        if view is not None:
            view.show(row)
        progress["window"] = []
        del progress["unlogged"]
        return True

    def _collect(self, pending: list[tuple[int, dict[str, Any]]], params: Any, progress: dict[str, Any]) -> None:
        """Adds the pending steps' scalars to the window. A step that is not finite becomes a row of its own, or ends the run."""
        fine, failures = host_values(pending, params)
        pending.clear()
        progress["window"] = progress["window"] + fine
        for step, where in failures:
            progress["skipped"] = [*progress["skipped"], step]
            check_skips(self.spec, step, where, progress["skipped"], self._last_good())
            say(f"step {step} is not finite and is skipped; {where}")
            self.records.write({"step": step, "skipped": where})

    def _last_good(self) -> str:
        self.checkpoints.wait()
        last = self.checkpoints.steps()[-1:]
        return f"last good checkpoint: {self.checkpoints.directory / str(last[0])}" if last else "no checkpoint yet"

    def _train_row(self, progress: dict[str, Any]) -> Row:
        """Means over the finite steps since the last row; without them where every one was skipped."""
        window, row = progress["window"], {"step": progress["step"], "time": progress["elapsed"]}
        if window:
            row |= {f"train/{name}": math.fsum(m[name] for m in window) / len(window) for name in window[0]}
            row["train/learning_rate"] = window[-1]["learning_rate"]
        if self.spec.on_nonfinite == "skip":
            row["train/skipped"] = len(progress["skipped"])
        unit, speed = progress["unlogged"]
        return row | {f"train/{unit}_per_second": speed}

    def _valid_row(self, state: TrainState) -> Row:
        batches = self._eval_batches(str(self.spec.eval_split))
        summary, router_metrics = self.evaluate(state.eval_params, state.state, batches)
        return {f"valid/{name}": value for name, value in summary.items()} | dict(sorted(router_metrics.items()))

    def _score(self, row: Row) -> float:
        if self.spec.best_metric not in row:
            raise SpecError(
                f"train.best_metric={self.spec.best_metric!r} is in no row.{did_you_mean(self.spec.best_metric, row)}"
            )
        return float(row[self.spec.best_metric])

    def _test(self, state: TrainState, progress: dict[str, Any]) -> Row:
        """The final row: the test split with the last parameters, or with those of the best checkpoint."""
        row: Row = {"step": self.spec.steps, "time": progress["elapsed"]}
        if self.spec.test_split is None:
            return row
        params, model_state, step = state.eval_params, state.state, self.spec.steps
        best = None
        if self.spec.test_with == "best":
            best = self.checkpoints.restore(self.template, shardings=self.program.shardings, which="best")
        if best is not None:
            loaded = fill(self.template, best.leaves)
            params, model_state, step = loaded.eval_params, loaded.state, best.step
        summary, _ = self.evaluate(params, model_state, self._eval_batches(self.spec.test_split))
        row |= {f"test/{name}": value for name, value in summary.items()}
        row |= {"test/parameters": self.spec.test_with, "test/parameters_step": step}
        self.records.write(row)
        return row

    def _save(self, state: TrainState, progress: dict[str, Any], *, wait: bool) -> None:
        tree = {name: getattr(state, name) for name in ("step", "params", "state", "opt_state", "ema", "key")}
        kept = {name: value for name, value in progress.items() if name != "score"}
        score = progress["score"]
        self.checkpoints.save(progress["step"], tree, progress=kept, config=self.config, score=score, wait=wait)

    def _eval_batches(self, split: str) -> Iterator[Any]:
        """The batches of a split; raises _InterruptedError, in all processes at the same one, once a signal has come."""
        for batch in self.data.eval_batches(split, **self._share):
            if self.signals.stop():
                raise _InterruptedError
            yield batch


def counted(batch: Mapping[str, jax.Array]) -> tuple[str, int]:
    """What the speed of a run counts, and how much of it a batch holds: pictures, or without any the tokens of text."""
    if "image" not in batch and "tokens" in batch:
        return "tokens", int(np.prod(batch["tokens"].shape))
    return "images", next(iter(batch.values())).shape[0]
