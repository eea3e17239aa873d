"""Tensors of decoders by the names that Hugging Face's checkpoints give them <-> leaves of a Decoder.

All families share these names but for those in `Names`. Tensors are read into the parameters one by one, and written so.
Source: Hugging Face Transformers, `LlamaModel` and the mixtures that follow it (kernels [F D], to be turned).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError
from moejax.core.segments import segments_named
from moejax.core.tree import flatten, leaf_names, map_with_names
from moejax.interop.named_tensors import Entry, Layout, check
from moejax.models.decoder import Decoder

LEFT_OUT = ".rotary_emb.inv_freq"  # a table that old checkpoints carry; it follows from the config
READ_DTYPES = ("float32", "bfloat16", "float16", "float64")
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
_TURNED: Layout = "turned"


@dataclasses.dataclass(frozen=True)
class Names:
    """What a family calls its parts.

    moe: the mixture in a layer. gate, up, down: the kernels of an expert. shared: the shared expert of a mixture.
    """

    moe: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "shared_experts"

    def gated(self, theirs: str, ours: str, dim: int, width: int, expert: int | None = None) -> list[Entry]:
        """The three kernels of an expert, or of a dense feed-forward layer."""
        shapes = {"gate": (width, dim), "up": (width, dim), "down": (dim, width)}
        return [
            Entry(f"{theirs}.{getattr(self, leaf)}.weight", shape, (f"{ours}/{leaf}/kernel",), _TURNED, expert)
            for leaf, shape in shapes.items()
        ]


def table(model: Decoder, names: Names) -> tuple[Entry, ...]:
    """Every tensor of a checkpoint of `model`, its layers one by one ('blocks/03/...')."""
    vocabulary = (model.vocab_size, model.dim)
    entries = [Entry("model.embed_tokens.weight", vocabulary, ("embedding/tokens",))]
    for layer in range(model.depth):
        theirs, ours = f"model.layers.{layer}", f"blocks/{layer:02d}"
        entries += _attention(model, f"{theirs}.self_attn", f"{ours}/attention")
        for norm, place in (("input_layernorm", "norm_1"), ("post_attention_layernorm", "norm_2")):
            entries.append(Entry(f"{theirs}.{norm}.weight", (model.dim,), (f"{ours}/{place}/scale",)))
        if layer in model.moe_indices:
            entries += _mixture(model, names, f"{theirs}.{names.moe}", f"{ours}/moe")
        else:
            entries += Names().gated(f"{theirs}.mlp", f"{ours}/feed_forward", model.dim, model.mlp_dim)
    entries.append(Entry("model.norm.weight", (model.dim,), ("norm/scale",)))
    if not model.tie_embeddings:
        entries.append(Entry("lm_head.weight", vocabulary, ("head/kernel",), _TURNED))
    return tuple(entries)


def _attention(model: Decoder, theirs: str, ours: str) -> list[Entry]:
    spec, dim = model.attention, model.dim
    query, shared = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    widths = {"query": query, "key": shared, "value": shared}
    entries = []
    for name, projection in PROJECTIONS.items():
        shape = (dim, query) if name == "out" else (widths[name], dim)
        entries.append(Entry(f"{theirs}.{projection}.weight", shape, (f"{ours}/{name}/kernel",), _TURNED))
        if spec.bias == "all" or (spec.bias == "qkv" and name != "out"):
            entries.append(Entry(f"{theirs}.{projection}.bias", shape[:1], (f"{ours}/{name}_bias",)))
    if spec.qk_norm != "none":
        for short, name in (("q", "query"), ("k", "key")):
            width = spec.head_dim if spec.qk_norm == "head" else widths[name]
            entries.append(Entry(f"{theirs}.{short}_norm.weight", (width,), (f"{ours}/{name}_norm/scale",)))
    return entries


def _mixture(model: Decoder, names: Names, theirs: str, ours: str) -> list[Entry]:
    moe, dim = model.moe, model.dim
    assert moe is not None
    number = moe.router.num_experts
    entries = [Entry(f"{theirs}.gate.weight", (number, dim), (f"{ours}/router/kernel",), _TURNED)]
    for i in range(number):
        width = getattr(moe.experts, "expert_dim", 0)
        entries += names.gated(f"{theirs}.experts.{i}", f"{ours}/experts", dim, width, expert=i)
    if moe.shared is not None:
        width = getattr(moe.shared, "expert_dim", 0)
        entries += Names().gated(f"{theirs}.{names.shared}", f"{ours}/shared", dim, width)
    if moe.shared_gate:
        entries.append(
            Entry(f"{theirs}.{names.shared}_gate.weight", (1, dim), (f"{ours}/shared_gate/kernel",), _TURNED)
        )
    return entries


def params_from(
    tensors: Mapping[str, Any], model: Decoder, entries: tuple[Entry, ...], *, dtype: str = "float32"
) -> dict[str, Any]:
    """Parameters of `model`, stacked as `model.init` stacks them; tensors are anything with a shape that `np.asarray` reads.

    Raises SpecError naming every tensor that is missing, misshapen or left over, all at once, and one of other than real numbers.
    """
    check({n: t for n, t in tensors.items() if not n.endswith(LEFT_OUT)}, entries, what="the model")
    template, _ = jax.eval_shape(model.init, jax.random.key(0))
    whole: dict[str, np.ndarray] = {}
    params = map_with_names(lambda name, leaf: whole.setdefault(name, np.empty(leaf.shape, jnp.dtype(dtype))), template)
    for entry, part in _parts(whole, template, model, entries):
        tensor = np.asarray(tensors[entry.name])
        if tensor.dtype.name not in READ_DTYPES:
            raise SpecError(
                f"{entry.name} holds {tensor.dtype.name}, not {', '.join(READ_DTYPES)}; take the weights that are not quantised."
            )
        part[...] = tensor.T if entry.layout == "turned" else tensor
    return params


def tensors_from(params: Any, model: Decoder, entries: tuple[Entry, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and tensors of `params`, one by one.

    Raises SpecError naming the leaves that the checkpoint has no place for (such as compressed ones), or that are not there.
    """
    for entry, part in _parts(flatten(params), params, model, entries):
        tensor = np.asarray(part)
        tensor = tensor.T if entry.layout == "turned" else tensor
        if tensor.shape != entry.shape:
            raise SpecError(f"{entry.places[0]}: {entry.name} must be {list(entry.shape)}, found {list(tensor.shape)}.")
        yield entry.name, np.ascontiguousarray(tensor)


def _parts(
    leaves: Mapping[str, Any], params: Any, model: Decoder, entries: tuple[Entry, ...]
) -> list[tuple[Entry, Any]]:
    """Each entry with what belongs to it of our leaves: for arrays of numpy a view."""
    stacks = {
        f"blocks/{layer:02d}/": (f"blocks/{segment.name}/", i if segment.length > 1 else None)
        for segment in segments_named(params["blocks"], model.blocks)
        for i, layer in enumerate(segment.layers)
    }
    found, used = [], set()
    for entry in entries:
        name, index = entry.places[0], None
        prefix = "/".join(name.split("/", 2)[:2]) + "/"
        if prefix in stacks:
            stack, index = stacks[prefix]
            name = stack + name.removeprefix(prefix)
        used.add(name)
        if name in leaves:
            part = leaves[name] if index is None else leaves[name][index]
            found.append((entry, part if entry.expert is None else part[entry.expert]))
    absent, unplaced = sorted(used - leaves.keys()), sorted(leaf for leaf in leaf_names(params) if leaf not in used)
    if absent or unplaced:
        raise SpecError(
            "these parameters make no checkpoint of this format:"
            + "".join(f"\n  missing: {name}" for name in absent)
            + "".join(f"\n  no place for: {name}" for name in unplaced)
        )
    return found
