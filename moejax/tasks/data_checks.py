"""Does a model take what a data set gives? Asked before anything is compiled."""

from typing import Any

import jax

from moejax.core.errors import SpecError


def check_pictures(model: Any, info: Any) -> None:
    """SpecError naming the values that differ. info: a DatasetInfo; one of text is refused."""
    if not hasattr(info, "image_shape"):
        raise SpecError(
            f"{info.name} is text, and this task takes pictures; set config.task.name='language', with a model of tokens such as "
            "'decoder', or another config.data.name."
        )
    if model.num_classes != info.num_classes:
        raise SpecError(
            f"config.model.num_classes={model.num_classes}, but {info.name} has {info.num_classes} classes; "
            f"set --config.model.num_classes={info.num_classes}."
        )
    expected = (model.image_size, model.image_size, model.channels)
    if tuple(info.image_shape) != expected:
        raise SpecError(
            f"config.model takes pictures of {expected}, {info.name} gives {tuple(info.image_shape)}; set "
            "config.data.image_size and config.model.image_size to the same."
        )


def picture_shapes(model: Any, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of pictures (or latents) with labels, as its shapes. Source: ours."""
    side, channels = model.image_size, model.channels
    return {
        "image": jax.ShapeDtypeStruct((batch_size, side, side, channels), "float32"),
        "label": jax.ShapeDtypeStruct((batch_size,), "int32"),
    }


def check_text(model: Any, info: Any) -> None:
    """SpecError naming the values that differ. info: a TextInfo; one of pictures is refused."""
    if not hasattr(info, "vocab_size"):
        raise SpecError(
            f"{info.name} is no text, and task 'language' needs some; set config.data.name to 'docstrings', or 'text_files' or "
            "'token_files' with a folder."
        )
    if model.vocab_size < info.vocab_size:
        raise SpecError(
            f"config.model.vocab_size={model.vocab_size}, but {info.name} has {info.vocab_size} different tokens; "
            f"set --config.model.vocab_size={info.vocab_size} or more."
        )
    if model.max_length < info.sequence_length:
        raise SpecError(
            f"config.data.sequence_length={info.sequence_length} is more than config.model.max_length={model.max_length}; "
            "make one of them the other."
        )
