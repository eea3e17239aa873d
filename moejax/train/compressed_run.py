"""A folder with compressed parameters that is a run like any other: evaluated, reported and trained further by its name.

Source: ours.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moejax.core.errors import SpecError
from moejax.train.checkpoints import Checkpoints
from moejax.train.records import Records
from moejax.train.restructured import described


def write_run(
    workdir: str | Path, config: Mapping[str, Any], params: Any, state: Any, *, step: int, row: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes config.json, metrics.jsonl and one checkpoint; returns the config, which carries the parameters' structure.

    config: of the run that was compressed. step: its steps. row: results, such as 'test/accuracy'. The checkpoint holds
    parameters and router state only: further training starts from it by train.init_from, not in the same folder.
    Raises SpecError when the folder already holds a run, CheckpointError when it cannot be written.
    """
    whole = {**config, "structure": described(params)}
    save_run(workdir, whole, params, state, step=step, row=row)
    return whole


def save_run(
    workdir: str | Path, config: Mapping[str, Any], params: Any, state: Any, *, step: int, row: Mapping[str, Any]
) -> None:
    """`write_run` with the config as it is: parameters and state as the task of `config` initialises them."""
    folder = Path(workdir)
    if (folder / "checkpoints").exists():
        raise SpecError(f"{folder} already holds a run; give another --workdir, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(step, {"params": params, "state": state}, progress={"step": step}, config=config, wait=True)
    records = Records(folder, step=step, tensorboard=False)
    records.write({"step": step, **row})
    records.close()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
