"""The frozen spec of a training run, and its comparison with the data set and with an earlier config."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from moejax.core.errors import SpecError, did_you_mean
from moejax.models.leaf_rules import build_rules
from moejax.sharding.mesh import MeshSpec
from moejax.sharding.processes import Processes
from moejax.sharding.rules import Rules
from moejax.train.wandb_run import Wandb

MISSING = "(not there)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """steps: updates of the whole run. accumulate_steps: micro batches per update. ema_decay: 0 keeps no average.

    log_every, eval_every, checkpoint_every: in steps; 0 means only at the end. A row of metrics.jsonl holds means over
        the steps since the last one.
    keep_last, keep_best: checkpoints kept; best by the row entry `best_metric`, 'max' or 'min' (scored at evaluations).
    test_with: which parameters the final test takes. eval_split, test_split: None skips.
    on_nonfinite: what a loss or gradient that is NaN or infinite does: 'stop' ends the run and names step and layer; 'skip' leaves
        the state as it was before the batch and goes on, at most `max_skipped` times in the whole run. Each skip is a row of
        metrics.jsonl; the data position and the random numbers of later steps are those of their number, so that a resumed run
        skips the same.
    init_from: workdir of a run to start from, its 'best' or 'last' (init_which), or 'FORMAT:PATH' of a foreign checkpoint
        (moejax/interop). reinitialise: leaves made anew. init_rules: pairs (regex over leaf names, rule), such as a dense model's MLPs
        made experts: (('moe/experts', 'copy_experts'), ('moe/router', 'fresh')); see models/leaf_rules.py.
    processes: how several processes find each other; mesh, rules: how arrays lie over all their devices. fsdp: what mesh axis `fsdp` splits beside the batch, 'params' and with them the
        optimiser's state, or the 'optimizer' state alone. tensorboard, progress: events, and the table while it trains. wandb: None, or
        where W&B puts the run.
    """

    steps: int
    accumulate_steps: int = 1
    ema_decay: float = 0.0
    log_every: int = 50
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_last: int = 1
    keep_best: int = 1
    best_metric: str = "valid/accuracy"
    best_mode: Literal["max", "min"] = "max"
    test_with: Literal["best", "last"] = "last"
    eval_split: str | None = "validation"
    test_split: str | None = "test"
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 10
    init_from: str | None = None
    init_which: Literal["best", "last"] = "best"
    reinitialise: tuple[str, ...] = ()
    init_rules: tuple[tuple[str, Any], ...] = ()
    processes: Processes = Processes()
    mesh: MeshSpec = MeshSpec()
    rules: Rules = Rules()
    fsdp: Literal["params", "optimizer"] = "params"
    tensorboard: bool = True
    progress: bool = True
    wandb: Wandb | None = None

    def __post_init__(self) -> None:
        for name, low in {
            "steps": 1,
            "accumulate_steps": 1,
            "log_every": 0,
            "eval_every": 0,
            "checkpoint_every": 0,
            "max_skipped": 0,
            "keep_last": 1,
            "keep_best": 0,
        }.items():
            if getattr(self, name) < low:
                raise SpecError(f"train.{name}={getattr(self, name)} must be at least {low}.")
        if not 0.0 <= self.ema_decay < 1.0:
            raise SpecError(f"train.ema_decay={self.ema_decay} must lie in [0, 1); 0 keeps no average.")
        build_rules(self.init_rules)
        for field in ("reinitialise", "init_rules"):
            if getattr(self, field) and not self.init_from:
                raise SpecError(
                    f"train.{field} names leaves, but train.init_from gives no run to load the others from."
                )

    def due(self, every: int, step: int) -> bool:
        """True at the last step and at multiples of `every`."""
        return step == self.steps or (every > 0 and step % every == 0)


def check_splits(spec: Train, info: Any) -> None:
    """Raises SpecError when the data set lacks a split that the spec names."""
    for field in ("eval_split", "test_split"):
        split = getattr(spec, field)
        if split is not None and split not in info.split_sizes:
            raise SpecError(
                f"train.{field}={split!r}: {info.name} has no such split.{did_you_mean(split, info.split_sizes)} "
                "None skips it."
            )


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{'train.steps': (100, 200)} for every entry of two nested configs that differs; '(not there)' for a missing one."""
    old, new = (flatten(json.loads(json.dumps(config))) for config in (before, now))
    pairs = {name: (old.get(name, MISSING), new.get(name, MISSING)) for name in sorted(old.keys() | new.keys())}
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train.steps': 100} for every entry of a nested config that is no dict itself."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
