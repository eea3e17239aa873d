"""Going on with another config: what may change without a word, and what is refused."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError
from moejax.train.optimizers import Optimizer
from moejax.train.spec import Train, changed

# Patterns of config keys -> why the run stays the same run when they change.
FREE = {
    r"^name$": "a label",
    r"^train\.(progress|tensorboard|wandb)(\.|$)": "what is shown",
    r"^train\.log_every$": "over how many steps a row takes its means",
    r"^train\.(eval_every|test_split|test_with)$": "when and with what it is measured; measuring changes no parameter",
    r"^train\.(checkpoint_every|keep_last|keep_best)$": "what is kept on the disk",
    r"^train\.(on_nonfinite|max_skipped)$": "what a broken batch does; up to here there was none, or it was skipped",
    r"^train\.(mesh|rules|processes)\.": "where arrays lie; the numbers are the same up to the rounding of sums",
    r"^train\.fsdp$": "where arrays lie",
    r"^model\.(.*\.)?(exchange|remat|dispatch)(\.|$)": "how the same values are computed",
}
# Not among them, on purpose: best_metric, best_mode and eval_split (scores of before and after could not be compared),
# init_from, init_which and reinitialise (read at the first step alone; a resumed run would ignore the new value), seed, data,
# optimizer, task and structure, accumulate_steps and ema_decay (another computation), and steps, but for the case below.


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'optimizer.learning_rate from 0.1 to 0.2' for every entry that differs and is not FREE.

    Entries that one side lacks have their default, so that a field which a newer version adds is no change. train.steps is free
    where the learning rate does not depend on it.
    """
    old, new = (_with_defaults(config) for config in (before, now))
    found = changed(old, new)
    if not _rate_depends_on_steps(old.get("optimizer", {})):
        found.pop("train.steps", None)
    return [
        f"{name} from {one!r} to {other!r}"
        for name, (one, other) in found.items()
        if not any(re.search(free, name) for free in FREE)
    ]


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], *, workdir: Any, allow_change: bool) -> list[str]:
    """The differences, where they are allowed; else SpecError names them and the ways out. Source: ours."""
    found = differing(before, now)
    if found and not allow_change:
        raise SpecError(
            f"{workdir} was trained with another config: you changed {'; '.join(found)}: pass --allow-change to go on with the "
            "new values, or give another --workdir."
        )
    return found


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(config)
    for part, cls in (("train", Train), ("optimizer", Optimizer)):
        if isinstance(config.get(part), Mapping):
            whole[part] = _filled(cls, config[part])
    return whole


def _filled(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the defaults of the dataclass, nested ones included."""
    filled: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        default = field.default
        nested = dataclasses.is_dataclass(default) and not isinstance(default, type)
        if nested and isinstance(given.get(field.name, {}), Mapping):
            filled[field.name] = _filled(type(default), given.get(field.name, {}))
        elif default is not dataclasses.MISSING:
            filled[field.name] = default
    plain = {name: value for name, value in given.items() if not isinstance(filled.get(name), dict)}
    return {**filled, **plain}


def _rate_depends_on_steps(optimizer: Mapping[str, Any]) -> bool:
    return optimizer.get("schedule", "cosine") not in ("constant", "rsqrt") or bool(optimizer.get("cooldown_steps", 0))
