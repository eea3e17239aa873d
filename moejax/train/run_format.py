"""A run's folder as a format beside the foreign ones: read for its parameters, written as a folder that evaluates and starts others.

Source: ours; the contract is that of moejax/interop/contract.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.tree import differences
from moejax.interop.contract import Foreign, overridden, plain
from moejax.train.checkpoints import load_run
from moejax.train.compressed_run import save_run, write_run
from moejax.train.restructured import build_task

FORMAT = "a run's --workdir, of experiments/train.py"
TASK = {"name": "classification", "cross_entropy": "softmax", "label_smoothing": 0.0, "aux_loss_weight": 1.0}


def read(path: str | Path, *, model: Mapping[str, Any] | None = None, which: str = "best") -> Foreign:
    """Parameters (the moving average where there is one) and model of a run; which: 'best' or 'last'.

    model: fields of its config to change. Raises CheckpointError when there is no checkpoint, SpecError when it does not fit.
    """
    config, params, state, step = load_run(path, which)
    changed = plain(overridden(config["model"], model))
    run = {key: value for key, value in config.items() if key not in ("model", "structure")}
    return Foreign(model=changed, params=params, state=state, step=step, run=run)


def write(foreign: Foreign, path: str | Path, *, data: str | None = None, name: str | None = None) -> None:
    """Writes config.json and a checkpoint of parameters and router state.

    data: name of the set that the run is evaluated on, and name of the run; None: of the run that the weights come from, or of the
    config that `foreign.run` is.
    Raises SpecError for a model without a task here, or a folder that already holds a run.
    """
    config = dict(foreign.run) if foreign.run is not None else _config(foreign)
    config["model"] = plain(foreign.model)
    config |= {"name": name} if name is not None else {}
    if data is not None:
        config["data"] = {**config["data"], "name": data}
    template, state = jax.eval_shape(build_task(config).init, jax.random.key(0))
    if not differences((template, state), (foreign.params, foreign.state)):
        params, state = jax.tree.map(jnp.asarray, (foreign.params, foreign.state))
        save_run(path, config, params, state, step=foreign.step, row={})
    else:  # compressed: the config tells what the leaves are
        params, state = (split_segments(jax.tree.map(jnp.asarray, tree)) for tree in (foreign.params, foreign.state))
        write_run(path, config, params, state, step=foreign.step, row={})


def _config(foreign: Foreign) -> dict[str, Any]:
    if not hasattr(foreign.spec, "classify"):
        raise SpecError(
            f"a {foreign.model['name']!r} model is no classifier of pictures, whose task and data are known: say them with --config, "
            "such as --config configs/lm/tokens.py for a decoder or configs/dit/dit_moe_paper.py for a diffusion model."
        )
    size = foreign.model["image_size"]
    data = {"name": "", "batch_size": 128, "eval_batch_size": 256, "image_size": size, "value_range": "-1_1"}
    return {
        "name": "converted",
        "seed": 0,
        "task": TASK,
        "data": data,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "train": {"steps": max(foreign.step, 1), "test_with": "last"},
    }
