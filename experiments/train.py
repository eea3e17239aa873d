"""Trains a model, or goes on with an interrupted run.

  python experiments/train.py --config configs/vit/patchwork.py:model=vmoe,seed=1 --workdir runs/vmoe
  python experiments/train.py --config configs/vit/patchwork.py:smoke --workdir runs/smoke --config.train.steps=4
  python experiments/train.py --config configs/vit/patchwork.py:model=vmoe --verify

The workdir gets config.json, environment.json, metrics.jsonl, checkpoints/ and tensorboard/. The same command resumes a run that
was stopped: SIGTERM and Ctrl-C save first. Several processes, one per host, share a workdir: docs/clusters.md. Exit codes: 0 done, or
stopped by SIGTERM with all saved (or --preemption_exit_code); 130 the same by Ctrl-C; 2 a command that cannot be run; 1 failed.
"""

import signal
import sys
import traceback
from typing import Any, NoReturn

import flag_errors
import jax
from absl import app, flags, logging
from ml_collections import config_flags

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import build_spec
from moejax.data import opening
from moejax.sharding.processes import Processes, is_writer, leave
from moejax.train.checkpoints import CheckpointError
from moejax.train.disk import DiskError
from moejax.train.guard import NonFiniteError
from moejax.train.lock import BusyError
from moejax.train.loop import LostProcessError, Result, Train, run
from moejax.train.memory import keep_freed_memory
from moejax.train.optimizers import Optimizer
from moejax.train.restructured import build_task, structure_from
from moejax.train.verify import NotDeterministicError, verify

PARTS = ("name", "seed", "model", "task", "data", "optimizer", "train", "structure")
OPTIONAL = ("name", "structure")

FAILURES = (
    BusyError, CheckpointError, ConnectionError, DiskError, LostProcessError, NonFiniteError, NotDeterministicError,
)  # fmt: skip

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:arguments] of the config; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made when it is not there.")
_ALLOW = flags.DEFINE_boolean("allow-change", False, "Go on with a run although its config has changed since.")
_CODE = flags.DEFINE_integer("preemption_exit_code", 0, "Exit code after SIGTERM with all saved; 143 or another that is not "
                             "0 where the scheduler starts again only what failed.", 0, 255)  # fmt: skip
_GRACE = flags.DEFINE_float("grace_seconds", None, "Seconds from SIGTERM until all must be saved; then the process ends "
                            "with code 1. Not given: as long as it takes.", 0)  # fmt: skip
_VERIFY = flags.DEFINE_boolean("verify", False, "Run five steps twice and compare every bit; no workdir is touched.")
_QUIET = flags.DEFINE_boolean("quiet", False, "No table and no bar while it trains.")
_WANDB = flags.DEFINE_string("wandb", None, "Project of Weights & Biases that gets the rows, too.")


def train(config: dict[str, Any], workdir: str | None) -> Result | None:
    """Builds every part of `config` (plain nested dicts) and runs it. Raises SpecError before anything is compiled.

    workdir: None verifies that five steps are deterministic, and returns None.
    """
    for key in config:
        if key not in PARTS:
            raise SpecError(f"config.{key} is no part of a training config.{did_you_mean(key, PARTS)}")
    missing = [part for part in PARTS if part not in config and part not in OPTIONAL]
    if missing:
        raise SpecError(f"the config lacks {', '.join(missing)}; a training config has {', '.join(PARTS)}.")
    config = follow_source(config)
    task = build_task(config)
    optimizer = build_spec(Optimizer, config["optimizer"], path="config.optimizer")
    spec = build_spec(Train, config["train"], path="config.train")
    data = opening.build(config["data"], path="config.data")
    task.check_data(data.info)
    if workdir is None:
        print(verify(task, data, optimizer, spec, seed=config["seed"]))
        return None
    return run(
        task, data, optimizer, spec, workdir=workdir, config=config, seed=config["seed"],
        allow_change=_ALLOW.value, grace_seconds=_GRACE.value,
    )  # fmt: skip


def follow_source(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the structure of the run that it starts from: compressed weights stay compressed."""
    source = config["train"].get("init_from")
    if source is None or "structure" in config or (structure := structure_from(source, config)) is None:
        return config
    print(f"the parameters have the structure of the compressed run {source}")
    return {**config, "structure": structure}


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    config = _CONFIG.value.to_dict()
    config["train"] |= {"progress": False} if _QUIET.value else {}
    config["train"] |= {"wandb": {"project": _WANDB.value}} if _WANDB.value else {}
    try:
        build_spec(Processes, config["train"].get("processes", {}), path="config.train.processes").join()
        result = train(config, None if _VERIFY.value else str(_WORKDIR.value))
    except SpecError as error:
        end(error, 2)
    except FAILURES as error:
        end(error, 1)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        leave("error: this process ends, and with it the run", 1)
    if result is not None and result.signal is not None:
        sys.exit(_CODE.value if result.signal == signal.SIGTERM else 128 + result.signal)
    if result is None or not is_writer():  # verified, or another process speaks
        return
    shown = {name: value for name, value in (result.row or {}).items() if name.startswith("test/")}
    print(
        f"{_WORKDIR.value}: step {result.step}",
        *(f"{n} {v:.4f}" if isinstance(v, float) else f"{n} {v}" for n, v in shown.items()),
        sep="\n  ",
    )


def end(error: Exception, code: int) -> NoReturn:
    """Ends with one line. A process of several leaves at once: the others learn of it, and none waits for one that is gone."""
    if jax.distributed.is_initialized():
        leave(f"error: {error}", code)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "verify"],
        lambda given: bool(given["workdir"]) != bool(given["verify"]),
        "give --workdir, or --verify without one",
    )
    app.run(main, flags_parser=flag_errors.parse)
