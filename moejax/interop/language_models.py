"""Language models of the Hugging Face hub: a folder -> Decoder and parameters, and back.

The format is what config.json calls model_type; each has a file beside this one. Experts are read and written one by one, as on
the hub (and as Transformers 5 writes them, whatever it holds in memory). In float32 logits are those of Transformers to within
1e-4, and greedy tokens are the same (tests/interop); on devices whose float32 products are rounded, set
jax_default_matmul_precision to 'highest' to see that.
Source: ours.
"""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp

from moejax.core.errors import SpecError, did_you_mean
from moejax.interop import deepseek_moe, mixtral, olmoe, qwen_moe
from moejax.interop.language_tensors import params_from, table, tensors_from
from moejax.interop.representable import check_same
from moejax.interop.weight_folder import SHARD_BYTES, open_tensors, read_config, write_folder
from moejax.models.decoder import Decoder

FORMATS: dict[str, ModuleType] = {
    "mixtral": mixtral,
    "qwen_moe": qwen_moe,
    "olmoe": olmoe,
    "deepseek_moe": deepseek_moe,
}
_LATENT = ("deepseek_v2", "deepseek_v3", "deepseek_v32")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """model, params (arrays of numpy), state: what `Decoder.apply` takes. stop_tokens: those that end a text, by config.json."""

    model: Decoder
    params: dict[str, Any]
    state: dict[str, Any]
    stop_tokens: tuple[int, ...]


def load(folder: str | Path, *, dtype: Literal["float32", "bfloat16"] = "float32") -> Loaded:
    """The model of a local folder with config.json and safetensors. dtype: of the parameters, whatever the files hold.

    Raises SpecError for a folder that is incomplete or broken, a model_type or a field of config.json that is not supported, and
    tensors that do not fit, naming them all.
    """
    config = read_config(folder)
    family = _family(config.get("model_type"), folder)
    model = family.decoder(config)
    with open_tensors(folder) as tensors:
        params = params_from(tensors, model, table(model, family.NAMES), dtype=dtype)
    _, state = jax.eval_shape(model.init, jax.random.key(0))
    if jax.tree.leaves(state):
        raise SpecError("checkpoints hold no state of routers, and this model has some.")
    return Loaded(model, params, state, _stop_tokens(config))


def save(
    params: Any,
    model: Decoder,
    folder: str | Path,
    *,
    family: str,
    dtype: Literal["float32", "bfloat16"] | None = None,
    stop_tokens: tuple[int, ...] = (),
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Writes config.json and safetensors that Transformers loads; returns the files.

    family: 'mixtral', 'qwen_moe', 'olmoe' or 'deepseek_moe'. dtype: of the tensors; None: as they are. stop_tokens: written as
    eos_token_id. Raises SpecError when the format cannot say what the model is, or has no place for a parameter.
    """
    if family not in FORMATS:
        raise SpecError(f"family={family!r} is no format of language models.{did_you_mean(family, FORMATS)}")
    module = FORMATS[family]
    config = module.config_of(model)
    check_same(model, module.decoder(config), what=f"a checkpoint of {family}")
    if stop_tokens:
        config["eos_token_id"] = stop_tokens[0] if len(stop_tokens) == 1 else list(stop_tokens)
    if dtype is not None:
        config["torch_dtype"] = dtype
    named = tensors_from(params, model, table(model, module.NAMES))
    cast = ((name, t if dtype is None else t.astype(jnp.dtype(dtype))) for name, t in named)
    return write_folder(folder, config, cast, shard_bytes=shard_bytes)


def _family(model_type: Any, folder: str | Path) -> ModuleType:
    known = {kind: module for module in FORMATS.values() for kind in module.MODEL_TYPES}
    if model_type in _LATENT:
        raise SpecError(f"{folder}: model_type={model_type!r} has multi-head latent attention, which is not here.")
    if model_type not in known:
        raise SpecError(
            f"{folder}: model_type={model_type!r} is no family that is read.{did_you_mean(str(model_type), known)}"
        )
    return known[model_type]


def _stop_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    found = config.get("eos_token_id")
    tokens = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(token, int) for token in tokens):
        raise SpecError(f"config.json: eos_token_id={found!r} must be a token or a list of them.")
    return tuple(tokens)
