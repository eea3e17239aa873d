"""Checkpoints on Orbax: asynchronous, atomic, the last n and the best n kept, every file and every leaf checked when it is read.

A checkpoint is `<directory>/<step>/` with the arrays under `state`, one JSON under `meta` (the leaves with shape, dtype and
fingerprint, the position of the data, the scores, the config) and the seal of all its files (`seals.py`). No pickle anywhere.
With several processes each writes and reads its own parts of the arrays, in one directory that all of them see.
Source: ours, over orbax-checkpoint.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from moejax.core.errors import SpecError
from moejax.core.tree import describe, flatten, nest
from moejax.sharding.processes import agreed, is_writer, together
from moejax.train.disk import way_out, writing
from moejax.train.fingerprints import fingerprints
from moejax.train.restructured import build_task
from moejax.train.seals import SealedPath, broken, is_sealed
from moejax.train.stored_leaves import check_fits, fill, own_copy

logger = logging.getLogger(__name__)

META = "meta/metadata"
# Superfluous checkpoints are renamed into this folder and then deleted: one whose deletion is interrupted is no checkpoint.
REMOVED = "removed"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or none that can be read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """leaves: leaf name -> array, of numpy unless shardings were given. meta: 'progress', 'config', 'metrics' as they were saved."""

    step: int
    leaves: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one directory. Use `with`, so that the last write ends.

    read_only: nothing in the directory is changed, as another process may be writing there: half-written and damaged
    checkpoints are passed over and stay where they are.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        *,
        keep_last: int = 1,
        keep_best: int = 0,
        best_mode: str = "max",
        read_only: bool = False,
    ) -> None:
        if keep_last < 1 or keep_best < 0:
            raise SpecError(f"train.keep_last={keep_last} must be at least 1, train.keep_best={keep_best} at least 0.")
        if best_mode not in ("max", "min"):
            raise SpecError(f"train.best_mode={best_mode!r} must be 'max' or 'min'.")
        self.directory = pathlib.Path(directory).absolute()
        self._sign = 1.0 if best_mode == "max" else -1.0
        self._keep = (keep_last, keep_best)
        self._scores: dict[int, float] = {}
        self._read_only = read_only
        self._unreadable: set[int] = set()
        if is_writer():
            self._scan()
        together("damaged checkpoints are set aside")
        if not is_writer():
            self._scan()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
            read_only=read_only,
            create=not read_only,  # said here, as Orbax warns of what it has to set itself
            save_interval_steps=0 if read_only else 1,
            temporary_path_class=SealedPath,
            todelete_subdir=None if read_only else REMOVED,
        )
        with _quiet(read_only):
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state", "meta"))
        self._delete_removed()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # After a failure the other processes may be gone, for whom `close` would wait.
        if kind is not None and jax.process_count() > 1:
            return
        try:
            self._manager.close()
            self._delete_removed()
        except Exception as error:  # a write that failed, as the one may have that we are leaving for
            if kind is None:
                raise self._write_error(None, error) from error
            logger.info("closing %s: %s", self.directory, _short(error))

    def steps(self) -> list[int]:
        """Steps with a finished checkpoint, ascending."""
        return sorted(set(self._manager.all_steps()) - self._unreadable)

    def rescore(self, step: int, score: float) -> None:
        """Gives a score to a checkpoint that was saved without one; later checkpoints carry it."""
        if np.isfinite(score):
            self._scores[step] = float(score)

    def best_step(self) -> int | None:
        """The step with the best score (the earliest of equals), None when no checkpoint has one."""
        scored = [step for step in self.steps() if step in self._scores]
        return max(scored, key=lambda step: (self._sign * self._scores[step], -step), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax's preservation policy: the last n steps, and the n best of those with a score."""
        del context
        last, best = self._keep
        steps = sorted(info.step for info in checkpoints)
        scored = [step for step in steps if step in self._scores]
        ranked = sorted(scored, key=lambda step: (-self._sign * self._scores[step], step))
        kept = {*steps[-last:], *ranked[:best]}
        return [info.step in kept for info in checkpoints]

    def save(
        self,
        step: int,
        tree: Any,
        *,
        progress: Mapping[str, Any],
        config: Mapping[str, Any],
        score: float | None = None,
        wait: bool = False,
    ) -> None:
        """Starts to write `tree` (arrays, typed keys allowed) as `step`; `wait` returns only when it is on disk.

        Older checkpoints are removed only after the new one is complete. Raises CheckpointError when this write, or the
        asynchronous one before it, failed; what was saved before is untouched.
        """
        leaves = {name: own_copy(leaf) for name, leaf in flatten(tree).items()}
        marks = dict(zip(leaves, fingerprints(list(leaves.values())), strict=True))
        if score is not None and np.isfinite(score):
            self._scores[step] = float(score)
        meta = {
            "step": step,
            "leaves": {name: [describe(leaf), marks[name]] for name, leaf in leaves.items()},
            "progress": dict(progress),
            "config": dict(config),
            "score": score,
            "scores": {str(number): value for number, value in sorted(self._scores.items())},
        }
        try:
            self._manager.wait_until_finished()
            self._delete_removed()
            args = ocp.args.Composite(state=ocp.args.PyTreeSave(nest(leaves)), meta=ocp.args.JsonSave(meta))
            self._manager.save(step, args=args, force=True)
            if wait:
                self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(step, error) from error

    def wait(self) -> None:
        """Returns when the last write is on disk. Raises CheckpointError when it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(None, error) from error

    def restore(self, template: Any = None, *, shardings: Any = None, which: str | int = "last") -> Restored | None:
        """A checkpoint: 'last', 'best' or a step; None when the directory holds none.

        template: a tree of arrays or shapes that it must fit, checked before any array is read. shardings: a tree of the
        same leaves: where the arrays shall lie, of which each process then reads its parts alone. A damaged checkpoint is
        set aside with a warning and the one before it is taken ('last'). Raises SpecError when it does not fit,
        CheckpointError when every one is damaged, or when the one that was named is.
        """
        self.wait()
        steps = self.steps()
        if which == "best":
            best = self.best_step()
            steps = steps if best is None else [best]
        elif which != "last":
            steps = [step for step in steps if step == which]
        damaged: list[str] = []
        for step in reversed(steps):
            try:
                return self._read(step, template, shardings)
            except CheckpointError as error:
                damaged.append(f"  step {step}: {error}")
                logger.warning("checkpoint %d in %s is damaged (%s)", step, self.directory, error)
                if which == "last" and not self._read_only:
                    self._set_aside(step)
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be read:\n" + "\n".join(damaged) + "\nRestore the files from a "
                "copy, or start again in another --workdir."
            )
        return None

    def _read(self, step: int, template: Any, shardings: Any) -> Restored:
        self._check_files(step)
        try:
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            described = {name: text for name, (text, _) in meta["leaves"].items()}
        except Exception as error:
            raise CheckpointError(f"its JSON cannot be read ({_short(error)})") from error
        if not all(isinstance(mark, str) for _, mark in meta["leaves"].values()):
            raise SpecError(
                f"checkpoint {self.directory / str(step)} was written by an older moejax, whose checksums are of another kind; "
                "load it with that version, or start again in another --workdir."
            )
        if template is not None:
            check_fits(template, described, source=f"checkpoint {self.directory / str(step)}")
        leaves, failure = self._arrays(step, described, shardings)
        if not agreed(failure is None):
            why = "in another process" if failure is None else _short(failure)
            raise CheckpointError(f"its arrays cannot be read ({why})") from failure
        found = dict(zip(leaves, fingerprints(list(leaves.values())), strict=True))
        wrong = [name for name, (_, saved) in meta["leaves"].items() if found[name] != saved]
        if wrong:
            raise CheckpointError(f"{len(wrong)} leaves differ from their fingerprints, first {wrong[0]}")
        return Restored(step=step, leaves={name: leaves[name] for name in described}, meta=meta)

    def _check_files(self, step: int) -> None:
        """Raises CheckpointError, in all processes, when a file is not the one that was written."""
        folder = self.directory / str(step)
        wrong = None
        if is_writer():
            try:
                sealed = is_sealed(folder) or "scores" in json.loads((folder / META).read_text())
            except (OSError, ValueError) as error:
                sealed, wrong = False, f"its JSON cannot be read ({_short(error)})"
            if sealed:
                wrong = broken(folder)
            elif wrong is None:
                logger.warning("%s has no seal, as older versions wrote it: its arrays alone are checked", folder)
        if not agreed(wrong is None):
            raise CheckpointError(wrong or "one of its files is not the one that was written")

    def _arrays(
        self, step: int, described: Mapping[str, str], shardings: Any
    ) -> tuple[dict[str, Any], Exception | None]:
        """The arrays of numpy, or as `shardings` says; or what went wrong."""
        if shardings is None:
            how: dict[str, Any] = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in described}
        else:
            how = {name: ocp.ArrayRestoreArgs(sharding=sharding) for name, sharding in flatten(shardings).items()}
        item = nest(dict.fromkeys(described, 0))
        try:
            args = ocp.args.PyTreeRestore(item=item, restore_args=nest({name: how[name] for name in described}))
            restored = flatten(self._manager.restore(step, args=ocp.args.Composite(state=args))["state"])
            return ({n: np.asarray(a) for n, a in restored.items()} if shardings is None else restored), None
        except Exception as error:
            return {}, error

    def _scan(self) -> None:
        """Reads the scores; sets aside what no longer has readable JSON, before Orbax looks at the directory."""
        if not self._read_only:
            with writing(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
        late: dict[int, float] = {}
        for folder in sorted(self.directory.iterdir(), key=lambda folder: (len(folder.name), folder.name)):
            if not folder.name.isdigit():
                continue
            try:
                meta = json.loads((folder / META).read_text())
                own, known = meta["score"], meta.get("scores", {})
                wrong = broken(folder, (META,)) if known or is_sealed(folder) else None
            except (OSError, ValueError, KeyError, AttributeError) as error:
                wrong = _short(error)
            if wrong is not None:
                logger.warning("checkpoint %s is damaged (%s)", folder, wrong)
                if self._read_only:
                    self._unreadable.add(int(folder.name))
                else:
                    _move_aside(folder)
                continue
            late |= {int(step): float(score) for step, score in known.items()}
            if own is not None and np.isfinite(own):
                self._scores[int(folder.name)] = float(own)
        self._scores = late | self._scores

    def _delete_removed(self) -> None:
        """Deletes what was renamed; never while a write is on its way, which may rename another."""
        folder = self.directory / REMOVED
        if is_writer() and not self._read_only and folder.is_dir():
            for old in folder.iterdir():
                shutil.rmtree(old, ignore_errors=True)

    def _set_aside(self, step: int) -> None:
        if is_writer():
            _move_aside(self.directory / str(step))
        together(f"checkpoint {step} is set aside")
        self._scores.pop(step, None)
        self._manager.reload()

    def _write_error(self, step: int | None, error: Exception) -> CheckpointError:
        kept = sorted(int(f.name) for f in self.directory.iterdir() if f.name.isdigit())
        what = "the checkpoint" if step is None else f"the checkpoint of step {step} (or the one before it)"
        return CheckpointError(
            f"{what} could not be written to {self.directory}: {_short(error)}. Complete checkpoints: "
            f"{', '.join(map(str, kept)) or 'none'}; they are untouched. {way_out(_errno(error))}"
        )


def load_run(workdir: str | pathlib.Path, which: str = "best") -> tuple[dict[str, Any], Any, Any, int]:
    """(config, parameters, router state, step) of a finished or running run, for evaluation.

    The parameters are the moving average where the run kept one. which: 'best' (the last one when no checkpoint was
    scored) or 'last'. Raises CheckpointError when there is no checkpoint, SpecError for another `which`.
    """
    if which not in ("best", "last"):
        raise SpecError(f"which={which!r} must be 'best' or 'last'.")
    restored = read_run(workdir, which)
    config = restored.meta["config"]
    params, state = jax.eval_shape(build_task(config).init, jax.random.key(0))
    prefix = "ema/" if any(name.startswith("ema/") for name in restored.leaves) else "params/"
    described = {
        name.replace(prefix, "params/", 1): describe(leaf)
        for name, leaf in restored.leaves.items()
        if name.startswith((prefix, "state/"))
    }
    check_fits({"params": params, "state": state}, described, source=f"the run in {workdir}")
    to_device = lambda tree: jax.tree.map(jax.numpy.asarray, tree)  # noqa: E731
    loaded = fill(params, restored.leaves, prefix=prefix), fill(state, restored.leaves, prefix="state/")
    return config, to_device(loaded[0]), to_device(loaded[1]), restored.step


def read_run(workdir: str | pathlib.Path, which: str) -> Restored:
    """The raw leaves of a run's checkpoint. Raises CheckpointError when there is none."""
    directory = pathlib.Path(workdir) / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(f"{workdir} holds no checkpoints; give the --workdir of a run of experiments/train.py.")
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore(which=which)
    if restored is None:
        raise CheckpointError(f"{directory} holds no finished checkpoint; train longer, or give another --workdir.")
    return restored


@contextlib.contextmanager
def _quiet(silent: bool) -> Iterator[None]:
    """Without Orbax's warnings that what was opened for reading cannot be written."""
    before = absl.logging.get_verbosity()
    if silent:
        absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def _move_aside(folder: pathlib.Path) -> None:
    target = folder.parent.parent / "damaged_checkpoints"
    target.mkdir(exist_ok=True)
    number = sum(1 for _ in target.iterdir())
    folder.rename(target / f"{folder.name}_{number}")


def _errno(error: BaseException) -> int:
    """That of the OSError behind an error; where the libraries below hide it, that of a full disk, the usual cause."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return link.errno
        link = link.__cause__ or link.__context__
    return errno.ENOSPC


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
