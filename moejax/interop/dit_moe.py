"""Weights of the released DiT-MoE (and of DiT) by their own names <-> parameters of a DiffusionTransformer.

Source: Fei et al. 2024, "Scaling Diffusion Transformers to 16 Billion Parameters", and the released state dicts; dense
    blocks (`mlp.fc1`, `mlp.fc2`): Peebles & Xie 2023, "Scalable Diffusion Models with Transformers".
Deviations: read in float32 whatever the file holds. With qk-norm the attention is called `Wqkv` and `out_proj`, as in
    the large released models, or `qkv` and `proj`; it is read by either name and written by the first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from moejax.core.errors import SpecError
from moejax.core.segments import segments, split_segments
from moejax.core.spec import build_method
from moejax.core.tree import flatten
from moejax.interop.contract import Foreign, plain
from moejax.interop.named_tensors import Entry, Layout, check, fill, read_safetensors, to_leaves, to_tensors
from moejax.interop.torch_files import SUFFIXES, read_torch, write_torch
from moejax.models.dit import DiffusionTransformer

FORMAT = "released DiT-MoE and DiT: .pt, .pth or .safetensors; the model is to be given (its config, name 'dit')"
PLAIN_ATTENTION = {"Wqkv": "qkv", "out_proj": "proj"}
GATED = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
POSITIONS_TOLERANCE = 5e-3  # what bfloat16 leaves of a sine


def read(path: str | Path, *, model: Mapping[str, Any] | None = None, which: str = "ema") -> Foreign:
    """The model given, whose config the tensors alone do not tell, with its parameters; which: as in `load_params`.

    Raises SpecError without a model, and as `load_params` does.
    """
    if not model:
        raise SpecError("a state dict of DiT-MoE does not tell heads, labels and K: give the model's whole config.")
    config = plain({"name": "dit", **model})
    spec = build_method("models", config, path="model")
    state = jax.jit(lambda key: spec.init(key)[1])(jax.random.key(0))
    return Foreign(model=config, params=load_params(path, spec, which=which), state=state)


def write(foreign: Foreign, path: str | Path) -> None:
    """Writes the state dict; the suffix says the format. Raises SpecError for a model that no released state dict holds."""
    save_params(foreign.params, foreign.spec, path)


def load_params(path: str | Path, model: DiffusionTransformer, *, which: str = "ema") -> dict[str, Any]:
    """Parameters of `model`, float32, from a local file: safetensors, or PyTorch's (.pt, .pth, .bin).

    which: 'ema' or 'model' where a file of PyTorch holds both. Raises SpecError for a file that is missing, broken, or does
    not fit the model, naming every tensor that is missing, misshapen or left over.
    """
    torch_file = Path(path).suffix in SUFFIXES
    return params_from(read_torch(path, which=which) if torch_file else read_safetensors(path), model)


def save_params(params: Any, model: DiffusionTransformer, path: str | Path) -> None:
    """Writes parameters under the released names; the file's suffix says the format, as in `load_params`."""
    tensors = tensors_from(params, model)
    if Path(path).suffix in SUFFIXES:
        write_torch(tensors, path)
    else:
        save_file(tensors, path)


def params_from(tensors: Mapping[str, np.ndarray], model: DiffusionTransformer) -> dict[str, Any]:
    """Parameters of `model` in float32 from a state dict; stacked as `model.init` stacks them.

    Raises SpecError naming every tensor that is missing, misshapen or left over, and for another table of positions.
    """
    named = {_attention_name(name, model): tensor for name, tensor in tensors.items()}
    entries = table(model)
    check(named, entries, what="the model")
    leaves = to_leaves(named, entries)
    _check_positions(leaves.pop("positions"), model)
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
    return fill(shapes, _stacked(leaves, model))


def tensors_from(params: Any, model: DiffusionTransformer) -> dict[str, np.ndarray]:
    """The state dict of `params`, the fixed table of positions included."""
    leaves = flatten(split_segments(params)) | {"positions": model.positions}
    return to_tensors(leaves, table(model))


def table(model: DiffusionTransformer) -> tuple[Entry, ...]:
    """Every tensor of the released state dict of `model`, its layers one by one ('blocks/03/...').

    Raises SpecError for a model that no released state dict can hold: other experts than SwiGLU, other dense layers than
    an MLP with biases.
    """
    dim, size = model.dim, model.patch_size
    patch = (dim, model.channels, size, size)
    entries = [
        Entry("pos_embed", (1, model.num_tokens, dim), ("positions",)),
        Entry("x_embedder.proj.weight", patch, ("embedding/stem/patch/kernel",), "patches"),
        Entry("x_embedder.proj.bias", (dim,), ("embedding/stem/patch_bias",)),
        *_linear("t_embedder.mlp.0", "embedding/time/hidden", 256, dim),
        *_linear("t_embedder.mlp.2", "embedding/time/out", dim, dim),
        Entry("y_embedder.embedding_table.weight", (model.labels.num_labels, dim), ("embedding/labels",)),
    ]
    template, _ = jax.eval_shape(model.init, jax.random.key(0))
    for segment in segments(model.blocks):
        block = template["blocks"][segment.name]
        for layer in segment.layers:
            entries += _block(model, block, f"blocks.{layer}", f"blocks/{layer:02d}")
    entries += _linear("final_layer.linear", "final/out", dim, size * size * model.out_channels)
    return (*entries, *_linear("final_layer.adaLN_modulation.1", "final/modulation", dim, 2 * dim))


def _block(model: DiffusionTransformer, template: Any, theirs: str, ours: str) -> list[Entry]:
    entries = _attention(model, f"{theirs}.attn", f"{ours}/attention")
    entries += _linear(f"{theirs}.adaLN_modulation.1", f"{ours}/modulation", model.dim, 6 * model.dim)
    if "moe" in template:
        return entries + _mixture(model, template["moe"], f"{theirs}.moe", f"{ours}/moe")
    mlp = template["feed_forward"]
    if set(mlp) != {"up", "up_bias", "down", "down_bias"}:
        raise SpecError(f"{ours}: released dense blocks hold an MLP with biases (experts 'mlp'), not {sorted(mlp)}.")
    width = mlp["up_bias"].shape[-1]
    entries += _linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up", model.dim, width)
    return entries + _linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down", width, model.dim)


def _attention(model: DiffusionTransformer, theirs: str, ours: str) -> list[Entry]:
    dim, (fused, out) = model.dim, ("Wqkv", "out_proj") if model.qk_norm else ("qkv", "proj")
    names = ("query", "key", "value")
    entries = [
        Entry(f"{theirs}.{fused}.weight", (3 * dim, dim), tuple(f"{ours}/{n}/kernel" for n in names), "turned"),
        Entry(f"{theirs}.{fused}.bias", (3 * dim,), tuple(f"{ours}/{n}_bias" for n in names)),
        *_linear(f"{theirs}.{out}", f"{ours}/out", dim, dim),
    ]
    if model.qk_norm:
        for short, name in (("q", "query"), ("k", "key")):
            for kind, leaf in (("weight", "scale"), ("bias", "bias")):
                shape = (dim // model.num_heads,)
                entries.append(Entry(f"{theirs}.{short}_norm.{kind}", shape, (f"{ours}/{name}_norm/{leaf}",)))
    return entries


def _mixture(model: DiffusionTransformer, moe: Any, theirs: str, ours: str) -> list[Entry]:
    router, experts, shared = moe["router"], moe["experts"], moe.get("shared")
    for what, bank in {"experts": experts, "shared": shared or dict.fromkeys(GATED.values())}.items():
        if set(bank) != set(GATED.values()):
            raise SpecError(
                f"{ours}/{what}: released mixtures hold SwiGLU experts (experts 'swiglu'), not {sorted(bank)}."
            )
    if set(router) != {"kernel"}:
        raise SpecError(f"{ours}/router: a released gate is one kernel (router 'top_k'), not {sorted(router)}.")
    number = router["kernel"].shape[-1]
    entries = [Entry(f"{theirs}.gate.weight", (number, model.dim), (f"{ours}/router/kernel",), "turned")]
    width = experts["up"].kernel.shape[-1]
    for i in range(number):
        entries += _gated(f"{theirs}.experts.{i}", f"{ours}/experts", model.dim, width, expert=i)
    if shared is not None:
        entries += _gated(f"{theirs}.shared_experts", f"{ours}/shared", model.dim, shared["up"].kernel.shape[-1])
    return entries


def _gated(theirs: str, ours: str, dim: int, width: int, *, expert: int | None = None) -> list[Entry]:
    shapes = {"gate_proj": (width, dim), "up_proj": (width, dim), "down_proj": (dim, width)}
    layout: Layout = "turned"
    return [
        Entry(f"{theirs}.{name}.weight", shapes[name], (f"{ours}/{leaf}/kernel",), layout, expert)
        for name, leaf in GATED.items()
    ]


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", (outputs, inputs), (f"{ours}/kernel",), "turned"),
        Entry(f"{theirs}.bias", (outputs,), (f"{ours}_bias",)),
    ]


def _attention_name(name: str, model: DiffusionTransformer) -> str:
    head, found, tail = name.partition(".attn.")
    short, _, kind = tail.partition(".")
    long = {plain: long for long, plain in PLAIN_ATTENTION.items()}
    names = long if model.qk_norm else PLAIN_ATTENTION
    return f"{head}{found}{names[short]}.{kind}" if found and short in names else name


def _stacked(leaves: dict[str, np.ndarray], model: DiffusionTransformer) -> dict[str, np.ndarray]:
    found = {name: leaf for name, leaf in leaves.items() if not name.startswith("blocks/")}
    for segment in segments(model.blocks):
        own = [f"blocks/{layer:02d}/" for layer in segment.layers]
        for rest in (name.removeprefix(own[0]) for name in leaves if name.startswith(own[0])):
            layers = [leaves[prefix + rest] for prefix in own]
            found[f"blocks/{segment.name}/{rest}"] = layers[0] if len(layers) == 1 else np.stack(layers)
    return found


def _check_positions(found: np.ndarray, model: DiffusionTransformer) -> None:
    difference = float(np.abs(found - np.asarray(model.positions)).max())
    if not difference <= POSITIONS_TOLERANCE:
        raise SpecError(
            f"pos_embed differs by up to {difference:.3g} from the fixed table of sines and cosines, and the model has no "
            "other; these weights belong to another model."
        )
