"""Trains a model, or goes on with an interrupted run.

  python experiments/train.py --config configs/vit/patchwork.py:model=vmoe,seed=1 --workdir runs/vmoe
  python experiments/train.py --config configs/vit/patchwork.py:smoke --workdir runs/smoke --config.train.steps=4

The workdir gets config.json, metrics.jsonl, checkpoints/ and tensorboard/. The same command resumes a run that was
stopped: SIGTERM and Ctrl-C save first. Several processes, one per host, start with the same command and one workdir that all
of them see; docs/clusters.md says how they find each other. Exit codes: 0 done, 2 a config that cannot be built, 1 a run that
failed or lost one of its processes, 128 + n stopped by signal n.
"""

import sys
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
from moejax.train.loop import LostProcessError, NonFiniteError, Result, Train, run
from moejax.train.memory import keep_freed_memory
from moejax.train.optimizers import Optimizer
from moejax.train.restructured import build_task, structure_from

PARTS = ("name", "seed", "model", "task", "data", "optimizer", "train", "structure")
OPTIONAL = ("name", "structure")

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:arguments] of the config; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made when it is not there.")
_QUIET = flags.DEFINE_boolean("quiet", False, "No progress bar.")


def train(config: dict[str, Any], workdir: str) -> Result:
    """Builds every part of `config` (plain nested dicts) and runs it. Raises SpecError before anything is compiled."""
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
    return run(task, data, optimizer, spec, workdir=workdir, config=config, seed=config["seed"])


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
    if _QUIET.value:
        config["train"]["progress"] = False
    try:
        build_spec(Processes, config["train"].get("processes", {}), path="config.train.processes").join()
        result = train(config, str(_WORKDIR.value))
    except SpecError as error:
        end(error, 2)
    except (CheckpointError, NonFiniteError, LostProcessError, ConnectionError) as error:
        end(error, 1)
    if result.signal is not None:
        sys.exit(128 + result.signal)
    if not is_writer():
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
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=flag_errors.parse)
