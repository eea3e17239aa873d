"""Whether two specs make the same forward pass: what a format can say of a model must be all that there is to say.

Source: ours.
"""

import dataclasses
from typing import Any

from moejax.core.errors import SpecError
from moejax.models.decoder import Decoder

# What differs between two runs of one model, or in training alone.
BESIDE_THE_FORWARD_PASS = frozenset(
    [
        "remat",
        "scan",
        "dtype",
        "dropout_rate",
        "attention_dropout_rate",
        "dispatch",
        "exchange",
        "group_size",
        "kernel_init",
        "equal_init",
        "noise_std",
        "capacity_factor",
        "eval_capacity_factor",
        "capacity_multiple",
        "capacity_rounding",
        "batch_priority",
        "eval_overflow",
        "num_devices",
        "balance_groups",
        "importance_loss_weight",
        "load_loss_weight",
        "balance_loss_weight",
        "device_balance_loss_weight",
        "sequence_balance_loss_weight",
        "z_loss_weight",
    ]
)


def check_same(model: Decoder, said: Decoder, *, what: str) -> None:
    """Raises SpecError naming every field of `model` in which it differs from `said`, the model that `what` would be read as."""
    wrong = _differences(_plain(model), _plain(said), "")
    if model.moe is not None and getattr(model.moe.router, "factor", lambda training: None)(training=False) is not None:
        wrong.append("moe.router.eval_capacity_factor: the format's experts take every token; set it to None")
    if wrong:
        raise SpecError(f"{what} cannot hold this model:\n  " + "\n  ".join(wrong))


def _plain(model: Decoder) -> Decoder:
    """The same model with what may be said in two ways said in one."""
    moe = model.moe
    if moe is not None and getattr(moe.router, "order", "") == "top_k_then_softmax":
        router: Any = dataclasses.replace(moe.router, order="softmax_then_top_k", renormalize=True)  # type: ignore[call-arg]
        moe = dataclasses.replace(moe, router=router)
    return dataclasses.replace(
        model,
        num_kv_heads=model.attention.num_kv_heads,
        head_dim=model.attention.head_dim,
        feed_forward=model.dense_experts,
        moe=moe,
        moe_layers=model.moe_indices or "none",
    )


def _differences(found: Any, wanted: Any, path: str) -> list[str]:
    if not dataclasses.is_dataclass(found) or type(found) is not type(wanted):
        same = found == wanted
        return [] if same else [f"{path}: {_shown(found)} would be read as {_shown(wanted)}"]
    lines = []
    for field in dataclasses.fields(found):
        if field.name not in BESIDE_THE_FORWARD_PASS:
            below = f"{path}.{field.name}" if path else field.name
            lines += _differences(getattr(found, field.name), getattr(wanted, field.name), below)
    return lines


def _shown(value: Any) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)
