"""Writes on from a prompt with a language model: a folder of the Hugging Face hub, or a run of ours.

  python experiments/generate.py --checkpoint ~/OLMoE-1B-7B-0924 --prompt "Mixtures of experts are" --steps 40
  python experiments/generate.py --checkpoint ~/Mixtral-8x7B-v0.1 --dtype bfloat16 --prompt "Once" --temperature 0.8 --top_p 0.9
  python experiments/generate.py --checkpoint tests/interop/recorded/olmoe --tokens 54,40,32 --steps 8
  python experiments/generate.py --checkpoint runs/top_k --prompt "Return the" --steps 200 --temperature 0.7

A folder of the hub has config.json and safetensors (Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeekMoE); nothing is
downloaded. A prompt of text needs its tokenizer.json and the library tokenizers (moejax[interop]); otherwise give token numbers,
and token numbers are written. Temperature 0 takes the most likely token. Exit codes: 0 done, 1 no usable checkpoint of a run, 2
what cannot be read or built.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import flag_errors
import jax
import jax.numpy as jnp
from absl import app, flags, logging

from moejax.core.errors import SpecError
from moejax.data import opening
from moejax.data.byte_text import ByteTokenizer
from moejax.data.text_dataset import TextPipeline
from moejax.interop import language_models
from moejax.interop.weight_folder import CONFIG, read_config
from moejax.models.decoder import Decoder
from moejax.models.decoding import generate
from moejax.models.next_token import NextToken
from moejax.train.checkpoints import CheckpointError, load_run
from moejax.train.restructured import build_task

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the hub, or of a run.")
_WHICH = flags.DEFINE_enum("which", "last", ["best", "last"], "Checkpoint of a run.")
_PROMPT = flags.DEFINE_string("prompt", None, "Text to go on from.")
_TOKENS = flags.DEFINE_list("tokens", None, "Token numbers to go on from, such as 1,2,3.")
_STEPS = flags.DEFINE_integer("steps", 32, "Tokens to write, fewer where the text ends.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0: always the most likely token.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Draw from the k most likely tokens.")
_TOP_P = flags.DEFINE_float("top_p", None, "Draw from the most likely tokens that sum to p.")
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of a hub model's parameters and activations.")


def load(folder: Path) -> language_models.Loaded:
    """The model of a folder. Raises SpecError for a run of another task, and what the readers raise."""
    if not folder.is_dir():
        raise SpecError(f"--checkpoint {folder} is no folder.")
    if any(folder.glob("*.safetensors*")) or ((folder / CONFIG).is_file() and "model_type" in read_config(folder)):
        dtype: Any = _DTYPE.value
        found = language_models.load(folder, dtype=dtype)
        return dataclasses.replace(found, model=dataclasses.replace(found.model, dtype=dtype))
    run_config, params, state, _ = load_run(folder, _WHICH.value)
    model = getattr(build_task(run_config), "model", None)
    if not isinstance(model, Decoder):
        raise SpecError(f"--checkpoint {folder}: its model is no decoder, so that it writes nothing.")
    return language_models.Loaded(model, params, state, ())


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer beside the weights or the run's tokens, bytes for a run that was trained on them; None where there is none, or
    not the library.

    Raises SpecError for a broken one.
    """
    data = read_config(folder).get("data") if (folder / CONFIG).is_file() else None
    places = [folder / "tokenizer.json"]
    if isinstance(data, dict) and data.get("name") == "token_files":
        places.append(Path(data["folder"]).expanduser() / "tokenizer.json")
    elif isinstance(data, dict) and opening.pipeline_type(data.get("name")) is TextPipeline:
        return ByteTokenizer()
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    path = next((place for place in places if place.is_file()), None)
    try:
        return None if path is None else Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise SpecError(f"{path} is no tokenizer that the library reads ({error}).") from error


def prompt_tokens(tokenizer: Any, vocab_size: int) -> list[int]:
    """The prompt's tokens. Raises SpecError for none, two, or tokens that are not in the vocabulary."""
    if (_PROMPT.value is None) == (_TOKENS.value is None):
        raise SpecError("give one of --prompt and --tokens.")
    if _PROMPT.value is not None:
        if tokenizer is None:
            raise SpecError(
                "--prompt needs tokenizer.json in the folder and pip install 'moejax[interop]'; or give --tokens."
            )
        tokens = tokenizer.encode(_PROMPT.value).ids
    else:
        try:
            tokens = [int(token) for token in _TOKENS.value or ()]
        except ValueError:
            raise SpecError(f"--tokens {','.join(_TOKENS.value or ())}: not all are numbers, such as 1,2,3.") from None
    if not tokens:
        raise SpecError("the prompt is empty; give at least one token.")
    wrong = [token for token in tokens if not 0 <= token < vocab_size]
    if wrong:
        raise SpecError(f"token {wrong[0]} is not in the vocabulary (0 to {vocab_size - 1}).")
    return tokens


def write(folder: Path) -> None:
    """Loads, writes on, prints."""
    rule = NextToken(temperature=_TEMPERATURE.value, top_k=_TOP_K.value, top_p=_TOP_P.value)
    tokenizer = tokenizer_of(folder)
    found = load(folder)
    prompt = prompt_tokens(tokenizer, found.model.vocab_size)
    go_on = functools.partial(generate, found.model, steps=_STEPS.value, next_token=rule, stop_tokens=found.stop_tokens)
    key = None if rule.greedy else jax.random.key(_SEED.value)
    written = jax.jit(go_on)(found.params, found.state, jnp.asarray([prompt], jnp.int32), key=key)
    tokens = written.tokens[0, : int(written.lengths[0])].tolist()
    if tokenizer is not None and _PROMPT.value is not None:
        print(tokenizer.decode(prompt + tokens))
    else:
        print(",".join(map(str, tokens)))


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        write(Path(str(_CHECKPOINT.value)).expanduser())
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["checkpoint"])
    app.run(main, flags_parser=flag_errors.parse)
