"""Weights of latent diffusion's autoencoder, by the names that diffusers gives them -> parameters of an AutoencoderKL.

Source: Hugging Face Diffusers, `AutoencoderKL` (file diffusion_pytorch_model.safetensors; kernels [outputs inputs k k]).
Deviations: read in float32 whatever the file holds. The attention of files from before diffusers 0.18 has other names
    (query, key, value, proj_attn), which are read too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from moejax.core.tree import flatten
from moejax.interop.named_tensors import Entry, check, fill, read_safetensors, to_leaves, to_tensors
from moejax.models.autoencoder_kl import AutoencoderKL

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}


def table(model: AutoencoderKL) -> tuple[Entry, ...]:
    """Every tensor of the checkpoint of `model`."""
    return (*_coder(model, "encoder"), *_coder(model, "decoder"))


def _coder(model: AutoencoderKL, coder: str) -> list[Entry]:
    encoding = coder == "encoder"
    widths = model.widths if encoding else model.widths[::-1]
    latents, moments = model.latent_channels, 2 * model.latent_channels
    inputs, outputs, quantised = (model.channels, moments, moments) if encoding else (latents, model.channels, latents)
    entries = _convolution(f"{coder}.conv_in", f"{coder}/in", inputs, widths[0])
    before = widths[0]
    for i, width in enumerate(widths):
        theirs, ours = f"{coder}.{'down' if encoding else 'up'}_blocks.{i}", f"{coder}/levels/{i}"
        for j in range(model.blocks_per_level + (not encoding)):
            entries += _block(f"{theirs}.resnets.{j}", f"{ours}/blocks/{j}", width if j else before, width)
        if i + 1 < len(widths):
            name, place = ("downsamplers", "down") if encoding else ("upsamplers", "up")
            entries += _convolution(f"{theirs}.{name}.0.conv", f"{ours}/{place}", width, width)
        before = width
    entries += _middle(coder, widths[-1] if encoding else widths[0])
    entries += _norm(f"{coder}.conv_norm_out", f"{coder}/norm_out", before)
    entries += _convolution(f"{coder}.conv_out", f"{coder}/out", before, outputs)
    return entries + _convolution(
        "quant_conv" if encoding else "post_quant_conv", f"{coder}/quant", *[quantised] * 2, size=1
    )


def _middle(coder: str, width: int) -> list[Entry]:
    entries = []
    for j in range(2):
        entries += _block(f"{coder}.mid_block.resnets.{j}", f"{coder}/middle/blocks/{j}", width, width)
    theirs, ours = f"{coder}.mid_block.attentions.0", f"{coder}/middle/attention"
    entries += _norm(f"{theirs}.group_norm", f"{ours}/norm", width)
    for place, name in ATTENTION.items():
        entries.append(Entry(f"{theirs}.{name}.weight", (width, width), (f"{ours}/{place}/kernel",), "turned"))
        entries.append(Entry(f"{theirs}.{name}.bias", (width,), (f"{ours}/{place}_bias",)))
    return entries


def _block(theirs: str, ours: str, before: int, width: int) -> list[Entry]:
    entries = _norm(f"{theirs}.norm1", f"{ours}/norm_1", before)
    entries += _convolution(f"{theirs}.conv1", f"{ours}/conv_1", before, width)
    entries += _norm(f"{theirs}.norm2", f"{ours}/norm_2", width)
    entries += _convolution(f"{theirs}.conv2", f"{ours}/conv_2", width, width)
    if before != width:
        entries += _convolution(f"{theirs}.conv_shortcut", f"{ours}/shortcut", before, width, size=1)
    return entries


def _convolution(theirs: str, ours: str, inputs: int, outputs: int, *, size: int = 3) -> list[Entry]:
    kernel = Entry(f"{theirs}.weight", (outputs, inputs, size, size), (f"{ours}_kernel",), "convolution")
    return [kernel, Entry(f"{theirs}.bias", (outputs,), (f"{ours}_bias",))]


def _norm(theirs: str, ours: str, width: int) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", (width,), (f"{ours}/scale",)),
        Entry(f"{theirs}.bias", (width,), (f"{ours}/bias",)),
    ]


def params_from(tensors: Mapping[str, np.ndarray], model: AutoencoderKL) -> dict[str, Any]:
    """Parameters of `model` in float32. Raises SpecError naming every tensor that is missing, misshapen or left over."""
    named = {_new_name(name): tensor for name, tensor in tensors.items()}
    entries = table(model)
    check(named, entries, what="the autoencoder")
    return fill(jax.eval_shape(model.init, jax.random.key(0)), to_leaves(named, entries))


def tensors_from(params: Any, model: AutoencoderKL) -> dict[str, np.ndarray]:
    """The tensors of `params` by diffusers' names, for `safetensors.numpy.save_file`."""
    return to_tensors(flatten(params), table(model))


def load_params(path: str | Path, model: AutoencoderKL) -> dict[str, Any]:
    """Parameters from a local safetensors file. Raises SpecError for a file that is missing, broken or does not fit."""
    return params_from(read_safetensors(path), model)


def _new_name(name: str) -> str:
    head, dot, tail = name.rpartition(".attentions.0.")
    part, _, kind = tail.rpartition(".")
    return f"{head}{dot}{OLD_ATTENTION[part]}.{kind}" if part in OLD_ATTENTION else name
