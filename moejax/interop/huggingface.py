"""Folders of the Hugging Face hub as a format: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE and DeepSeekMoE, by their model_type.

Source: ours; what the files hold is in language_models.py and the file of each family.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moejax.core.errors import SpecError
from moejax.core.spec import as_config, build_method
from moejax.interop import language_models
from moejax.interop.contract import Foreign, overridden
from moejax.models.decoder import Decoder

FORMAT = "language models of the Hugging Face hub: a folder with config.json and safetensors"


def read(path: str | Path, *, model: Mapping[str, Any] | None = None, dtype: str = "float32") -> Foreign:
    """A decoder. model: fields to change, such as the capacity of its experts; dtype: of the parameters.

    Raises SpecError for another dtype, and as `language_models.load` does.
    """
    _check_dtype(dtype)
    loaded = language_models.load(path, dtype=dtype)  # type: ignore[arg-type]
    config = overridden({"name": "decoder", **as_config(loaded.model)}, model)
    build_method("models", config, path="model")
    ends = ", ".join(map(str, loaded.stop_tokens))
    notes = (f"config.json says that a text ends with token {ends}",) if ends else ()
    return Foreign(model=config, params=loaded.params, state=loaded.state, notes=notes)


def write(foreign: Foreign, path: str | Path, *, family: str = "", dtype: str | None = None) -> None:
    """Writes a folder that Transformers loads. family: 'mixtral', 'qwen_moe', 'olmoe' or 'deepseek_moe'.

    Raises SpecError for a model that is no decoder, a family that cannot say what it is, or none.
    """
    if dtype is not None:
        _check_dtype(dtype)
    if not isinstance(foreign.spec, Decoder):
        raise SpecError(f"the hub's families here are decoders; model.name={foreign.model.get('name')!r} is none.")
    if not family:
        families = ", ".join(language_models.FORMATS)
        raise SpecError(f"say which family the folder is to be, by --write family=FAMILY: one of {families}.")
    language_models.save(foreign.params, foreign.spec, path, family=family, dtype=dtype)  # type: ignore[arg-type]


def _check_dtype(dtype: str) -> None:
    if dtype not in ("float32", "bfloat16"):
        raise SpecError(f"dtype={dtype!r} must be 'float32' or 'bfloat16'.")
