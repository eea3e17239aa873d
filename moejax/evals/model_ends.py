"""What stands before and after the blocks of a model, as pieces whose cost can be counted.

Source: ours.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moejax.models.decoder import Decoder
from moejax.models.dit import DiffusionTransformer
from moejax.models.vit import VisionTransformer

Shapes = Any  # a tree of jax.ShapeDtypeStruct
Model = VisionTransformer | DiffusionTransformer | Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """One piece. apply(params, inputs, key) computes it, with the params [path, ...] of the model's as a dict by path.

    reads: further paths that it computes with and that belong to another piece, such as a table that is read twice.
    fixed: numbers of a table that is no parameter, but that published totals count.
    """

    name: str
    kind: str
    paths: tuple[str, ...]
    apply: Callable[..., Any]
    inputs: Shapes
    reads: tuple[str, ...] = ()
    fixed: int = 0


def model_ends(
    model: Model, params: Shapes, batch_size: int, length: int | None = None
) -> tuple[tuple[End, ...], tuple[End, ...]]:
    """The pieces before the blocks, and those after them. length: tokens of a sequence of text (None: the longest)."""
    tokens = token_shape(model, batch_size, length)
    if isinstance(model, Decoder):
        return _of_decoder(model, jax.ShapeDtypeStruct(tokens.shape[:2], jnp.int32), tokens)
    side = model.image_size
    images = jax.ShapeDtypeStruct((batch_size, side, side, model.channels), jnp.float32)
    if isinstance(model, DiffusionTransformer):
        return _of_dit(model, images, tokens)
    return _of_vit(model, params, images, tokens)


def num_tokens(model: Any, length: int | None = None) -> int:
    """T of an example: of a picture what its size gives, of text `length`, or else the longest that the model takes."""
    return length or model.max_length if isinstance(model, Decoder) else model.num_tokens


def token_shape(model: Model, batch_size: int, length: int | None = None) -> jax.ShapeDtypeStruct:
    """[B T D] in the compute dtype. length: as in `num_tokens`."""
    return jax.ShapeDtypeStruct((batch_size, num_tokens(model, length), model.dim), jnp.dtype(model.dtype))


def condition_shape(model: Model, batch_size: int) -> jax.ShapeDtypeStruct | None:
    """[B D] in the compute dtype for models whose blocks are conditioned, else None."""
    conditioned = isinstance(model, DiffusionTransformer)
    return jax.ShapeDtypeStruct((batch_size, model.dim), jnp.dtype(model.dtype)) if conditioned else None


def _of_decoder(model: Decoder, ids: Shapes, tokens: Shapes) -> Any:
    table = "embedding/tokens"
    embedding = End(
        name="embedding",
        kind="tokens",
        paths=(table,),
        apply=lambda p, x, k: model.embed({"embedding": {"tokens": p[table]}}, x),
        inputs=ids,
    )
    tied = model.tie_embeddings
    head = End(
        name="head",
        kind="tied" if tied else "linear",
        paths=("norm",) if tied else ("norm", "head"),
        apply=lambda p, x, k: model.predict({"norm": p["norm"], "embedding": {"tokens": p[table]}} if tied else p, x)[
            0
        ],
        inputs=tokens,
        reads=(table,) if tied else (),
    )
    return (embedding,), (head,)


def _of_vit(model: VisionTransformer, params: Shapes, images: Shapes, tokens: Shapes) -> Any:
    rest = tuple(name for name in params if name not in ("embedding", "blocks"))
    embedding = End(
        name="embedding",
        kind=model.stem,
        paths=("embedding",),
        apply=lambda p, x, k: model.embed(p["embedding"], x, key=k),
        inputs=images,
    )
    head = End(
        name="head",
        kind=model.pooling,
        paths=rest,
        apply=lambda p, x, k: model.classify(p, x, key=k)[0],
        inputs=tokens,
    )
    return (embedding,), (head,)


def _of_dit(model: DiffusionTransformer, images: Shapes, tokens: Shapes) -> Any:
    batch = images.shape[0]
    times = jax.ShapeDtypeStruct((batch,), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    stem, time, labels = "embedding/stem", "embedding/time", "embedding/labels"
    embedding = End(
        name="embedding",
        kind="patch",
        paths=(stem,),
        apply=lambda p, x, k: model.embed({"stem": p[stem]}, x),
        inputs=images,
    )
    positions = End(
        name="positions",
        kind="fixed",
        paths=(),
        apply=lambda p, x, k: None,
        inputs=(),
        fixed=model.num_tokens * model.dim,
    )
    condition = End(
        name="condition",
        kind="time+label",
        paths=(time, labels),
        apply=lambda p, x, k: model.condition({"time": p[time], "labels": p[labels]}, *x, key=k),
        inputs=times,
    )
    final = End(
        name="final",
        kind="adaLN",
        paths=("final",),
        apply=lambda p, x, k: model.predict(p["final"], *x),
        inputs=(tokens, condition_shape(model, batch)),
    )
    return (embedding, positions, condition), (final,)
