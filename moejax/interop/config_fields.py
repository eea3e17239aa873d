"""The fields of a foreign config.json, each asked for by name; what is not understood is refused, never ignored.

Source: ours; fields that change nothing in the forward pass are those of `PretrainedConfig` in Hugging Face Transformers.
"""

from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError

# Fields that say nothing about the forward pass: names, versions, tokens, generation, training, devices.
WITHOUT_MEANING = frozenset(
    [
        "_name_or_path",
        "architectures",
        "auto_map",
        "model_type",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "unk_token_id",
        "output_router_logits",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "return_dict_in_generate",
        "router_aux_loss_coef",
        "attn_implementation",
        "_attn_implementation",
        "chunk_size_feed_forward",
        "id2label",
        "label2id",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "torchscript",
        "use_bfloat16",
        "tokenizer_class",
        "prefix",
        "is_encoder_decoder",
        "is_decoder",
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "pruned_heads",
        "tf_legacy_loss",
        "cross_attention_hidden_size",
        "add_cross_attention",
        "tie_encoder_decoder",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    ]
)
_MISSING = object()


class Fields:
    """Fields are taken one by one; `finish` refuses those that are left, but for those that are null.

    Raises SpecError for a config of quantised weights.
    """

    def __init__(self, config: Mapping[str, Any], *, what: str) -> None:
        self._left = {name: value for name, value in config.items() if name not in WITHOUT_MEANING}
        self._what = what
        self.only("quantization_config", None, way_out="Take the weights that are not quantised.")

    def integer(
        self, name: str, default: Any = _MISSING, *, or_else: str = "", least: int = 0, most: int = 2**31 - 1
    ) -> Any:
        """A whole number from `least` to `most` (or the default). or_else: another spelling of the name.

        Raises SpecError when it is missing without default, or something else.
        """
        value = self._take(or_else if name not in self._left and or_else in self._left else name, default)
        if value is not default and (not isinstance(value, int) or isinstance(value, bool)):
            raise SpecError(f"config.json: {name}={value!r} must be a whole number.")
        if value is not default and not least <= value <= most:
            raise SpecError(f"config.json: {name}={value} must be within {least} and {most}.")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number. Raises SpecError for something else."""
        return _number(name, self._take(name, default))

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false. Raises SpecError for something else."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise SpecError(f"config.json: {name}={value!r} must be true or false.")
        return value

    def only(self, name: str, *allowed: Any, way_out: str = "") -> None:
        """Nothing but one of `allowed` (or the field's absence). Raises SpecError naming the field."""
        value = self._take(name, allowed[0])
        if value not in allowed:
            rest = f" {way_out}" if way_out else ""
            raise SpecError(
                f"config.json: {name}={value!r} of {self._what} is not supported, only {' or '.join(map(repr, allowed))}.{rest}"
            )

    def list_of(self, name: str, kind: type) -> list[Any]:
        """A list of integers or texts; an empty one where it is null or absent. Raises SpecError for something else."""
        value = self._take(name, None)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise SpecError(f"config.json: {name}={value!r} must be a list of {kind.__name__}, or null.")
        return value

    def drop(self, *names: str) -> None:
        """Takes fields that the family itself reads only in training, or not at all."""
        for name in names:
            self._left.pop(name, None)

    def rope_base(self, default: float) -> float:
        """The base of plain rotary positions, by either spelling. Raises SpecError for every kind of scaling."""
        self.only("rope_scaling", None, {"type": "default"}, {"rope_type": "default"}, way_out=_ROPE)
        self.only("partial_rotary_factor", 1.0)
        given = self._take("rope_parameters", None)
        given = {} if given is None else given
        kind = given.get("rope_type", "default") if isinstance(given, dict) else given
        if kind != "default":
            raise SpecError(f"config.json: rope_parameters of type {kind!r} are not supported, only 'default'. {_ROPE}")
        extra = sorted(set(given) - {"rope_type", "rope_theta"})
        if extra:
            raise SpecError(f"config.json: rope_parameters.{extra[0]} is not supported. {_ROPE}")
        base = self.number("rope_theta", default)
        return _number("rope_parameters.rope_theta", given.get("rope_theta", base))

    def finish(self) -> None:
        """Raises SpecError naming the fields that nothing has asked for."""
        left = sorted(name for name, value in self._left.items() if value is not None)
        if left:
            raise SpecError(
                f"config.json: {', '.join(left)} of {self._what} not understood; what changes the forward pass cannot be ignored. "
                "Remove a field that changes nothing."
            )

    def _take(self, name: str, default: Any) -> Any:
        if name in self._left:
            return self._left.pop(name)
        if default is _MISSING:
            raise SpecError(f"config.json lacks {name!r}, which {self._what} needs.")
        return default


def _number(name: str, value: Any) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not -1e30 < value < 1e30:
        raise SpecError(f"config.json: {name}={value!r} must be a finite number.")
    return float(value)


_ROPE = "Positions that are stretched (linear, dynamic, yarn, ...) are not here; use the unscaled model."
