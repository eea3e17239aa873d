"""The tensors of Flax's vision transformers by their public names, and the leaves of a VisionTransformer that they become.

Three dialects name one architecture: google-research/vmoe, google-research/vision_transformer as its released files have
it (layers counted through a block: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3), and big_vision.
Shapes: kernels of attention [D H d] and [H d D], of experts [E D F] and [E F D], of patches [p p channels D]; ours are the
same numbers as matrices.
Source: google-research/vmoe `vmoe/nn/vit_moe.py`, `vmoe/nn/routing.py`, `vmoe/projects/soft_moe/router.py`;
    google-research/vision_transformer `vit_jax/models_vit.py`; google-research/big_vision `big_vision/models/vit.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from moejax.core.errors import SpecError
from moejax.core.segments import layer_names, split_segments
from moejax.core.tree import flatten
from moejax.interop.contract import assembled
from moejax.interop.named_tensors import Entry, check
from moejax.models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """Names of parts. class_position: whether the class token has an entry in the table of positions."""

    encoder: str
    norm_1: str
    attention: str
    norm_2: str
    mlp: str
    positions: str
    pool: str
    pool_attention: str
    pool_norm: str
    pool_mlp: str
    class_position: bool = True
    experts: bool = False

    @property
    def first_query(self) -> str:
        """The tensor that tells this dialect from the others."""
        return f"{self.encoder}/encoderblock_0/{self.attention}/query/kernel"


VMOE = Dialect(
    encoder="Encoder", norm_1="LayerNorm_0", attention="SelfAttention", norm_2="LayerNorm_1", mlp="Mlp",
    positions="Encoder/posembed_input/pos_embedding", pool="MapHead", pool_attention="MultiHeadDotProductAttention",
    pool_norm="LayerNorm", pool_mlp="Mlp", experts=True,
)  # fmt: skip
VISION_TRANSFORMER = Dialect(
    encoder="Transformer", norm_1="LayerNorm_0", attention="MultiHeadDotProductAttention_1", norm_2="LayerNorm_2",
    mlp="MlpBlock_3", positions="Transformer/posembed_input/pos_embedding", pool="MAPHead_0", pool_attention="MultiHeadDotProductAttention_0",
    pool_norm="LayerNorm_0", pool_mlp="MlpBlock_0",
)  # fmt: skip
BIG_VISION = Dialect(
    encoder="Transformer", norm_1="LayerNorm_0", attention="MultiHeadDotProductAttention_0", norm_2="LayerNorm_1",
    mlp="MlpBlock_0", positions="pos_embedding", class_position=False, pool="MAPHead_0", pool_attention="MultiHeadDotProductAttention_0",
    pool_norm="LayerNorm_0", pool_mlp="MlpBlock_0",
)  # fmt: skip


def params_from(tensors: Mapping[str, np.ndarray], model: VisionTransformer, dialect: Dialect) -> tuple[Any, Any]:
    """Parameters of `model` in float32, and its fresh state.

    Raises SpecError naming every tensor that is missing, misshapen or left over.
    """
    entries = table(model, dialect)
    named = _split_heads(dict(tensors), entries)
    if model.pooling == "cls" and not dialect.class_position and dialect.positions in named:
        positions = named[dialect.positions]
        if positions.shape[1] == model.num_patches:
            named[dialect.positions] = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
    check(named, entries, what="the model")
    return assembled(model, {e.places[0]: np.asarray(named[e.name]).astype(np.float32) for e in entries})


def tensors_from(params: Any, model: VisionTransformer, dialect: Dialect) -> dict[str, np.ndarray]:
    """The tensors of `params` by the dialect's names.

    A class token whose dialect gives it no position is written with its position added. Raises SpecError for a model that
    the dialect cannot hold.
    """
    entries = table(model, dialect)
    leaves = flatten(split_segments(params))
    absent = sorted({entry.places[0] for entry in entries} - leaves.keys())
    if absent:
        raise SpecError(
            f"these leaves are not in the parameters: {', '.join(absent)}; compressed ones have no such format."
        )
    tensors = {e.name: np.asarray(leaves[e.places[0]]).reshape(e.shape) for e in entries}
    if model.pooling == "cls" and not dialect.class_position and dialect.positions in tensors:
        positions = tensors[dialect.positions]
        tensors["cls"] = tensors["cls"] + positions[:, :1]
        tensors[dialect.positions] = np.ascontiguousarray(positions[:, 1:])
    return tensors


def table(model: VisionTransformer, dialect: Dialect) -> tuple[Entry, ...]:
    """Every tensor of the checkpoint of `model`, each with the leaf of ours ('blocks/03/...').

    Raises SpecError for a model that no checkpoint of this dialect can hold.
    """
    _check_model(model, dialect)
    dim, heads, patch = model.dim, model.num_heads, model.patch_size
    entries = [
        _entry("embedding/kernel", "embedding/stem/patch/kernel", patch, patch, model.channels, dim),
        _entry("embedding/bias", "embedding/stem/patch_bias", dim),
    ]
    if model.pooling == "cls":
        entries.append(_entry("cls", "embedding/class_token", 1, 1, dim))
    if model.positions == "learned":
        entries.append(_entry(dialect.positions, "embedding/positions", 1, model.num_tokens, dim))
    shapes = _leaf_shapes(model)
    for i in range(model.depth):
        theirs, ours = f"{dialect.encoder}/encoderblock_{i}", f"blocks/{i:02d}"
        entries += _norm(f"{theirs}/{dialect.norm_1}", f"{ours}/norm_1", dim)
        entries += _attention(f"{theirs}/{dialect.attention}", f"{ours}/attention", dim, heads, model.qk_norm)
        entries += _norm(f"{theirs}/{dialect.norm_2}", f"{ours}/norm_2", dim)
        if i in model.moe_indices:
            entries += _mixture(shapes, f"{theirs}/Moe", f"{ours}/moe", dim)
        else:
            entries += _mlp(f"{theirs}/{dialect.mlp}", f"{ours}/feed_forward", dim, model.mlp_dim)
    entries += _norm(f"{dialect.encoder}/encoder_norm", "norm", dim)
    if model.pooling == "map":
        pool = dialect.pool
        entries.append(_entry(f"{pool}/probe", "pool/query", 1, 1, dim))
        entries += _attention(f"{pool}/{dialect.pool_attention}", "pool/attention", dim, heads, False)
        entries += _norm(f"{pool}/{dialect.pool_norm}", "pool/norm", dim)
        entries += _mlp(f"{pool}/{dialect.pool_mlp}", "pool/feed_forward", dim, model.mlp_dim)
    width = dim
    if model.representation_size is not None:
        width = model.representation_size
        entries += _linear("pre_logits", "pre_logits", dim, width)
    return (*entries, *_linear("head", "head", width, model.num_classes))


def _check_model(model: VisionTransformer, dialect: Dialect) -> None:
    if not isinstance(model, VisionTransformer):
        raise SpecError(f"this format holds vision transformers (model 'vit'), not a {type(model).__name__}.")
    banks = [model.dense_experts] + ([model.moe.experts] if model.moe is not None else [])
    lacks = {
        "stem='patch'": model.stem == "patch",
        "MLPs with biases and activation='gelu'": all(getattr(bank, "activation", None) == "gelu" for bank in banks),
        "shortcut=False": not model.shortcut,
        "no MoE layers (the format 'vmoe' has them)": model.moe is None or dialect.experts,
        "no shared expert": model.moe is None or model.moe.shared is None,
    }
    wrong = [need for need, there in lacks.items() if not there]
    if wrong:
        raise SpecError(f"no checkpoint of this format can hold the model: it needs {'; '.join(wrong)}.")


def _leaf_shapes(model: VisionTransformer) -> dict[str, tuple[int, ...]]:
    """Shape of each leaf, layer by layer."""
    template, _ = jax.eval_shape(model.init, jax.random.key(0))
    found: dict[str, tuple[int, ...]] = {}
    for name, leaf in flatten(template).items():
        names = layer_names(name)
        found |= dict.fromkeys(names, leaf.shape if names == [name] else leaf.shape[1:])
    return found


def _mixture(shapes: Mapping[str, tuple[int, ...]], theirs: str, ours: str, dim: int) -> list[Entry]:
    own = {name.removeprefix(f"{ours}/"): shape for name, shape in shapes.items() if name.startswith(f"{ours}/")}
    router = {name.removeprefix("router/"): shape for name, shape in own.items() if name.startswith("router/")}
    if set(router) not in ({"kernel"}, {"mu", "scale"}):
        raise SpecError(
            f"{ours}/router: the format holds a router of one kernel ('top_k', 'expert_choice'), or Soft MoE's mu and scale "
            f"('soft'), not {sorted(router)}."
        )
    entries = [
        _entry(f"{theirs}/Router/{'dense/kernel' if name == 'kernel' else name}", f"{ours}/router/{name}", *shape)
        for name, shape in router.items()
    ]
    bank = {name for name in own if name.startswith("experts/")}
    if bank != {f"experts/{name}" for name in ("up/kernel", "up_bias", "down/kernel", "down_bias")}:
        raise SpecError(f"{ours}/experts: the format holds dense MLPs with biases (experts 'mlp'), not {sorted(bank)}.")
    number, width = own["experts/up_bias"]
    return entries + _mlp(f"{theirs}/Mlp", f"{ours}/experts", dim, width, number)


def _attention(theirs: str, ours: str, dim: int, heads: int, qk_norm: bool) -> list[Entry]:
    width = dim // heads
    entries = []
    for name in ("query", "key", "value"):
        entries.append(_entry(f"{theirs}/{name}/kernel", f"{ours}/{name}/kernel", dim, heads, width))
        entries.append(_entry(f"{theirs}/{name}/bias", f"{ours}/{name}_bias", heads, width))
    entries.append(_entry(f"{theirs}/out/kernel", f"{ours}/out/kernel", heads, width, dim))
    entries.append(_entry(f"{theirs}/out/bias", f"{ours}/out_bias", dim))
    if qk_norm:
        entries += [_entry(f"{theirs}/{n}_ln/scale", f"{ours}/{n}_norm/scale", width) for n in ("query", "key")]
    return entries


def _mlp(theirs: str, ours: str, dim: int, width: int, *experts: int) -> list[Entry]:
    return [
        _entry(f"{theirs}/Dense_0/kernel", f"{ours}/up/kernel", *experts, dim, width),
        _entry(f"{theirs}/Dense_0/bias", f"{ours}/up_bias", *experts, width),
        _entry(f"{theirs}/Dense_1/kernel", f"{ours}/down/kernel", *experts, width, dim),
        _entry(f"{theirs}/Dense_1/bias", f"{ours}/down_bias", *experts, dim),
    ]


def _norm(theirs: str, ours: str, dim: int) -> list[Entry]:
    return [_entry(f"{theirs}/{kind}", f"{ours}/{kind}", dim) for kind in ("scale", "bias")]


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> list[Entry]:
    return [
        _entry(f"{theirs}/kernel", f"{ours}/kernel", inputs, outputs),
        _entry(f"{theirs}/bias", f"{ours}_bias", outputs),
    ]


def _entry(theirs: str, ours: str, *shape: int) -> Entry:
    return Entry(theirs, shape, (ours,))


def _split_heads(tensors: dict[str, np.ndarray], entries: tuple[Entry, ...]) -> dict[str, np.ndarray]:
    """Kernels whose heads are merged into one axis, as some files have them, take the shape with heads."""
    for entry in entries:
        tensor = tensors.get(entry.name)
        merged = tensor is not None and tensor.ndim == len(entry.shape) - 1 and tensor.size == np.prod(entry.shape)
        if merged and "Attention" in entry.name:
            tensors[entry.name] = tensors[entry.name].reshape(entry.shape)
    return tensors
