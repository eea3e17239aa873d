"""The config of a vision transformer, as far as the shapes of its tensors tell it.

Told: width, depth, patch size, channels, MLP widths, classes, tanh layer, qk-norm, pooling ('cls', 'map', else 'avg'), the
picture's size where positions are learned, which layers have experts, how many, of which width, and Soft MoE's slots.
Not told, and taken from `given` or assumed with a note: heads where kernels are merged (no default), the picture's size
where positions are fixed (no default), K = 2 selected experts (V-MoE's), dropless experts, a group per picture.
Source: the names and shapes as in vit_tensors.py; K: Riquelme et al. 2021, section 3.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError
from moejax.interop.contract import overridden
from moejax.interop.vit_tensors import Dialect

_ASSUMED = "the weights do not tell {what}: {name}={value} is assumed; give another where it is not so"


def deduce(
    tensors: Mapping[str, Any], dialect: Dialect, given: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The model's config, values of `given` in their places, and notes on what was assumed.

    Raises SpecError for a tensor that must be there and is not, layers whose numbers have gaps, layers with experts that
    differ in their sizes, and what must be given.
    """
    given = dict(given or {})
    found: dict[str, Any] = {"name": "vit"}
    size, _, channels, dim = _shape(tensors, "embedding/kernel", 4)
    depth = _depth(tensors, dialect)
    found |= {"patch_size": size, "channels": channels, "dim": dim, "depth": depth}
    found["num_heads"] = _heads(tensors, dialect, dim, given)
    found["pooling"] = _pooling(tensors, dialect)
    found |= _positions(tensors, dialect, size, found["pooling"], given)
    found["qk_norm"] = f"{_block(dialect, 0)}/{dialect.attention}/query_ln/scale" in tensors
    found["representation_size"] = _shape(tensors, "pre_logits/bias", 1)[0] if "pre_logits/bias" in tensors else None
    found["num_classes"] = _shape(tensors, "head/bias", 1)[0]
    experts, notes = _experts(tensors, dialect, depth, given)
    found |= experts
    dense = [f"{_block(dialect, i)}/{dialect.mlp}/Dense_0/bias" for i in range(depth)]
    widths = [_shape(tensors, name, 1)[0] for name in dense if name in tensors]
    found["mlp_dim"] = widths[0] if widths else experts["moe"]["experts"]["expert_dim"]
    if found["pooling"] == "avg":
        notes.append("there is neither class token nor attention pooling: pooling='avg'")
    return overridden(found, given), tuple(notes)


def _block(dialect: Dialect, layer: int) -> str:
    return f"{dialect.encoder}/encoderblock_{layer}"


def _shape(tensors: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    if name not in tensors:
        near = sorted(tensors)[:6]
        raise SpecError(f"the checkpoint lacks {name!r}; it has {', '.join(near)} ... Is it a vision transformer's?")
    shape = tuple(tensors[name].shape)
    if len(shape) != rank:
        raise SpecError(f"{name!r} has shape {list(shape)}, and {rank} axes are needed.")
    return shape


def _depth(tensors: Mapping[str, Any], dialect: Dialect) -> int:
    pattern = re.compile(rf"{dialect.encoder}/encoderblock_(\d+)/")
    layers = sorted({int(match[1]) for name in tensors if (match := pattern.match(name))})
    if layers != list(range(len(layers))):
        absent = sorted(set(range(layers[-1])) - set(layers))
        raise SpecError(f"the checkpoint lacks the blocks {absent} of {layers[-1] + 1}; is it complete?")
    return len(layers)


def _heads(tensors: Mapping[str, Any], dialect: Dialect, dim: int, given: Mapping[str, Any]) -> int:
    name = dialect.first_query
    shape = tuple(tensors[name].shape)
    if len(shape) == 3:
        return shape[1]
    if "num_heads" not in given:
        raise SpecError(
            f"{name!r} has shape {list(shape)}, heads merged; give model num_heads=..., a divisor of {dim}."
        )
    return given["num_heads"]


def _pooling(tensors: Mapping[str, Any], dialect: Dialect) -> str:
    if "cls" in tensors:
        return "cls"
    return "map" if f"{dialect.pool}/probe" in tensors else "avg"


def _positions(
    tensors: Mapping[str, Any], dialect: Dialect, patch_size: int, pooling: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    if dialect.positions not in tensors:
        if "image_size" not in given:
            raise SpecError(
                f"the checkpoint has no table of positions {dialect.positions!r}, so they are fixed sines; give model image_size=..."
            )
        return {"positions": "sincos", "image_size": given["image_size"]}
    length = _shape(tensors, dialect.positions, 3)[1]
    for patches in (length - 1, length) if pooling == "cls" else (length,):
        if math.isqrt(patches) ** 2 == patches > 0:
            return {"positions": "learned", "image_size": math.isqrt(patches) * patch_size}
    raise SpecError(
        f"{dialect.positions!r} has {length} entries, which is no square of patches (with a class token or not)."
    )


def _experts(
    tensors: Mapping[str, Any], dialect: Dialect, depth: int, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    layers = [i for i in range(depth) if f"{_block(dialect, i)}/Moe/Mlp/Dense_0/bias" in tensors]
    if not dialect.experts or not layers:
        return {}, []
    kinds: dict[tuple[int, int, int], list[int]] = {}
    for i in layers:
        moe = f"{_block(dialect, i)}/Moe"
        number, width = _shape(tensors, f"{moe}/Mlp/Dense_0/bias", 2)
        soft = f"{moe}/Router/mu" in tensors
        slots = _shape(tensors, f"{moe}/Router/mu", 3)[2] if soft else 0
        kinds.setdefault((number, width, slots), []).append(i)
    if len(kinds) > 1:
        told = "; ".join(f"layers {own}: {kind}" for kind, own in kinds.items())
        raise SpecError(f"the MoE layers differ in (experts, width, slots), and a model has one kind: {told}.")
    ((number, width, slots),) = kinds
    notes = []
    router: dict[str, Any] = {"name": "soft", "num_experts": number, "num_slots": slots}
    if not slots:
        router = {"name": "top_k", "num_experts": number, "num_selected_experts": min(2, number)}
        own = dict(dict(given.get("moe") or {}).get("router") or {})
        assumed = {"num_selected_experts": ("K", min(2, number)), "capacity_factor": ("the capacity", None)}
        if own.get("name", "top_k") == "top_k":
            notes += [_ASSUMED.format(what=w, name=n, value=v) for n, (w, v) in assumed.items() if n not in own]
    if "group_size" not in dict(given.get("moe") or {}):
        notes.append(_ASSUMED.format(what="the group size", name="group_size", value="None, one picture,"))
    config = {"router": router, "experts": {"name": "mlp", "expert_dim": width}}
    return {"moe": config, "moe_layers": layers}, notes
