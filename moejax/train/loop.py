"""The training loop: from built parts and one frozen spec to a trained model, its records and its checkpoints.

The Python side of a step is one call: metrics stay on the device until a row is due. Source: ours.
"""

import dataclasses
import json
import logging
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from moejax.core.errors import SpecError, did_you_mean
from moejax.sharding.processes import is_writer
from moejax.sharding.table import placed, table
from moejax.train.checkpoints import Checkpoints
from moejax.train.evaluation import build_evaluator
from moejax.train.initialise import initialise_from, read_source
from moejax.train.optimizers import Optimizer
from moejax.train.prefetch import Prefetch
from moejax.train.program import Program
from moejax.train.records import Records, Row, is_final, read_rows
from moejax.train.signals import Signals
from moejax.train.spec import Train, changes, check_splits
from moejax.train.state import TrainState
from moejax.train.step import first_failure
from moejax.train.stored_leaves import fill

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """A loss or gradient became NaN or infinite."""


class LostProcessError(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


@dataclasses.dataclass(frozen=True)
class Result:
    """row: the final row, or None when the run was stopped by `signal`. step: steps done."""

    step: int
    row: Row | None
    signal: int | None = None


def run(
    task: Any,
    data: Any,
    optimizer: Optimizer,
    spec: Train,
    *,
    workdir: str | pathlib.Path,
    config: Mapping[str, Any],
    seed: int,
) -> Result:
    """Trains, or goes on where `workdir` stopped. Returns at the end, or after SIGTERM or SIGINT with all saved.

    data: a Dataset. config: JSON-able, written to config.json and into every checkpoint.
    Raises SpecError before compilation for what does not fit, NonFiniteError, CheckpointError; LostProcessError where several
    processes run and the devices of another no longer answer.
    """
    check_splits(spec, data.info)
    workdir = pathlib.Path(workdir).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    with (
        Checkpoints(
            workdir / "checkpoints", keep_last=spec.keep_last, keep_best=spec.keep_best, best_mode=spec.best_mode
        ) as checkpoints,
        Signals() as signals,
    ):
        loop = _Loop(task, data, optimizer, spec, workdir, dict(config), seed, checkpoints)
        with jax.set_mesh(loop.program.mesh):
            try:
                return loop.run(signals)
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
        self, task: Any, data: Any, optimizer: Optimizer, spec: Train, workdir: pathlib.Path, config: dict[str, Any],
        seed: int, checkpoints: Checkpoints,
    ) -> None:  # fmt: skip
        self.task, self.data, self.spec, self.workdir, self.config = task, data, spec, workdir, config
        self.checkpoints, self.seed = checkpoints, seed
        self.program = Program(task, optimizer, spec, seed=seed, batch_size=data.batch_size)
        if self.program.mesh.size > 1 and is_writer():
            print(table(placed(self.program.template, self.program.shardings)), flush=True)
        self.template = self.program.template
        self.evaluate = build_evaluator(task, data.info, self.program.place, self.program.everywhere)
        part, parts = self.program.part
        self._share = {"num_processes": parts, "process": part} if parts > 1 else {}
        self.iterator = data.train_iterator(seed=seed, **self._share)

    def run(self, signals: Signals) -> Result:
        state, progress = self._start()
        step = int(progress["step"])
        if step == self.spec.steps and (
            done := [row for row in read_rows(self.workdir / "metrics.jsonl") if is_final(row)]
        ):
            say(f"{self.workdir}: all {step} steps are done; nothing to do.")
            return Result(step, done[-1])
        if is_writer():
            (self.workdir / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        self.records = Records(self.workdir, step=step, tensorboard=self.spec.tensorboard, writes=is_writer())
        try:
            state, step = self._train(state, progress, signals)
            if step < self.spec.steps:
                say(f"stopped by signal {signals.received} at step {step}; the same command goes on from there.")
                return Result(step, None, signals.received)
            row = self._test(state, progress)
            return Result(step, row)
        finally:
            self.records.close()

    def _start(self) -> tuple[TrainState, dict[str, Any]]:
        """The state to begin with: restored, loaded from another run, or fresh."""
        restored = self.checkpoints.restore(self.template, shardings=self.program.shardings)
        if restored is not None:
            progress = restored.meta["progress"]
            self.iterator.set_state(progress["data"])
            say(f"resuming {self.workdir} from step {restored.step}")
            for line in changes(restored.meta["config"], self.config):
                say(f"  the config has changed since: {line}")
            return jax.device_put(fill(self.template, restored.leaves), self.program.shardings), progress
        # Read before anything is compiled, so that a source that does not fit says so at once.
        spec = self.spec
        source = None if spec.init_from is None else read_source(spec.init_from, spec.init_which)
        how: dict[str, Any] = {"reinitialise": spec.reinitialise, "rules": spec.init_rules}
        if source is not None:
            initialise_from(self.template.params, self.template.state, source, **how)
        state = self.program.init()
        if source is not None:
            params, model_state = initialise_from(state.params, state.state, source, **how)
            copies = jax.tree.map(np.array, params) if state.ema is not None else None
            state = jax.device_put(
                dataclasses.replace(state, params=params, state=model_state, ema=copies), self.program.shardings
            )
        return state, {"step": 0, "data": self.iterator.get_state(), "elapsed": 0.0, "window": [], "score": None}

    def _train(self, state: TrainState, progress: dict[str, Any], signals: Signals) -> tuple[TrainState, int]:
        spec, step, window = self.spec, progress["step"], list(progress["window"])
        pending: list[tuple[int, dict[str, jax.Array]]] = []
        begin = time.monotonic() - progress["elapsed"]
        batches = Prefetch(self.iterator, self.program.place)
        bar = tqdm(
            total=spec.steps, initial=step, unit="step", disable=not (spec.progress and is_writer()), dynamic_ncols=True
        )
        since, steps_since, saved = time.monotonic(), 0, step
        try:
            while step < spec.steps and not signals.stop(step):
                batch, position = next(batches)
                state, metrics = self.program.step(state, batch)
                step, steps_since = step + 1, steps_since + 1
                pending.append((step, metrics))
                bar.update(1)
                log, evaluate = spec.due(spec.log_every, step), spec.due(spec.eval_every, step)
                save = spec.due(spec.checkpoint_every, step)
                if not (log or evaluate or save):
                    continue
                window += self._collect(pending, state.params)
                now = time.monotonic()
                progress |= {"step": step, "data": position, "elapsed": now - begin, "score": None}
                if log or evaluate:
                    images = steps_since * self._batch_size(batch)
                    row = self._train_row(step, window, images / max(now - since, 1e-9), now - begin)
                    window = []
                    if evaluate and spec.eval_split is not None:
                        row |= self._valid_row(state)
                        progress["score"] = self._score(row)
                    self.records.write(row)
                    self._show(bar, row)
                progress["window"] = window
                if save:
                    self._save(state, progress, wait=step == spec.steps)
                    saved = step
                since, steps_since = time.monotonic(), 0
            if step > saved:
                window += self._collect(pending, state.params)
                if step > progress["step"]:
                    progress |= {"step": step, "data": position, "score": None}
                progress |= {"elapsed": time.monotonic() - begin, "window": window}
                self._save(state, progress, wait=True)
            self.checkpoints.wait()
            return state, step
        finally:
            batches.close()
            bar.close()

    def _collect(self, pending: list[tuple[int, dict[str, Any]]], params: Any) -> list[dict[str, float]]:
        """Host values of the pending steps' scalars; stops the run at the first that is not finite."""
        steps, metrics = [step for step, _ in pending], jax.device_get([metrics for _, metrics in pending])
        pending.clear()
        for step, values in zip(steps, metrics, strict=True):
            if (failure := first_failure(params, values)) is not None:
                self.checkpoints.wait()
                last = self.checkpoints.steps()[-1:]
                saved = (
                    f"last good checkpoint: {self.checkpoints.directory / str(last[0])}"
                    if last
                    else "no checkpoint yet"
                )
                raise NonFiniteError(
                    f"step {step} is not finite; {failure}; {saved}. Lower optimizer.learning_rate or set "
                    "optimizer.clip_norm, and run again."
                )
        return [{n: float(v) for n, v in m.items() if np.ndim(v) == 0 and not n.startswith("block_")} for m in metrics]

    def _train_row(self, step: int, window: list[dict[str, float]], speed: float, elapsed: float) -> Row:
        means = {f"train/{name}": math.fsum(m[name] for m in window) / len(window) for name in window[0]}
        means["train/learning_rate"] = window[-1]["learning_rate"]
        return {"step": step, "time": elapsed, **means, "train/images_per_second": speed}

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

    def _eval_batches(self, split: str) -> Any:
        return self.data.eval_batches(split, **self._share)

    @staticmethod
    def _batch_size(batch: Mapping[str, jax.Array]) -> int:
        return next(iter(batch.values())).shape[0]

    @staticmethod
    def _show(bar: Any, row: Row) -> None:
        shown = {
            "loss": f"{row['train/loss']:.3f}",
            "accuracy": f"{row['train/accuracy']:.1%}" if "train/accuracy" in row else "-",
            "images/s": f"{row['train/images_per_second']:.0f}",
        }
        if "valid/accuracy" in row:
            shown["valid"] = f"{row['valid/accuracy']:.1%}"
        bar.set_postfix(shown)
