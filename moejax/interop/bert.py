"""BERT's weights by the names that Hugging Face's checkpoints give them -> parameters of a TextEncoder.

Source: Hugging Face Transformers, `BertModel` (kernels [F D], to be turned).
Deviations: the pooler and the table of position numbers are left out; a text vector needs neither.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.linear.dense import Dense
from moejax.models.text_encoder import TextEncoder

LEFT_OUT = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
TABLES = {"tokens": "word", "positions": "position", "token_types": "token_type"}
PROJECTIONS = {  # place in a block -> name in a layer of the checkpoint
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "feed_forward/up": "intermediate.dense",
    "feed_forward/down": "output.dense",
}
NORMS = {"norm_1": "attention.output.LayerNorm", "norm_2": "output.LayerNorm"}


class _Tensors:
    """Tensors by name, each taken once and with the shape that the encoder says."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = dict(tensors)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self.tensors:
            raise SpecError(f"the weights lack {name!r} {list(shape)}.{did_you_mean(name, self.tensors)}")
        tensor = self.tensors.pop(name)
        if tensor.shape != shape:
            raise SpecError(f"{name!r} has shape {list(tensor.shape)}, and the encoder needs {list(shape)}.")
        return np.asarray(tensor, np.float32)

    def norm(self, name: str, dim: int) -> dict[str, np.ndarray]:
        return {"scale": self.take(f"{name}.weight", (dim,)), "bias": self.take(f"{name}.bias", (dim,))}


def params_from(tensors: Mapping[str, np.ndarray], encoder: TextEncoder) -> dict[str, Any]:
    """Parameters of `encoder` in float32, one segment per layer ('blocks/00' ...).

    Raises SpecError for a missing tensor, one of another shape, and one that the encoder has no place for.
    """
    left = _Tensors(tensors)
    dim = encoder.dim
    sizes = {
        "tokens": encoder.vocabulary_size,
        "positions": encoder.max_length,
        "token_types": encoder.num_token_types,
    }
    embedding: dict[str, Any] = {
        name: left.take(f"embeddings.{TABLES[name]}_embeddings.weight", (size, dim)) for name, size in sizes.items()
    }
    embedding["norm"] = left.norm("embeddings.LayerNorm", dim)
    blocks = {f"{i:02d}": _block(left, f"encoder.layer.{i}", dim, encoder.mlp_dim) for i in range(encoder.depth)}
    unknown = sorted(left.tensors.keys() - set(LEFT_OUT))
    if unknown:
        raise SpecError(
            f"the encoder has no place for {unknown[0]!r} (and {len(unknown) - 1} more); is depth={encoder.depth} right?"
        )
    return {"embedding": embedding, "blocks": blocks}


def _block(left: _Tensors, layer: str, dim: int, mlp_dim: int) -> dict[str, Any]:
    block: dict[str, Any] = {ours: left.norm(f"{layer}.{theirs}", dim) for ours, theirs in NORMS.items()}
    widths = {"feed_forward/up": (dim, mlp_dim), "feed_forward/down": (mlp_dim, dim)}
    for ours, theirs in PROJECTIONS.items():
        place, _, name = ours.partition("/")
        inputs, outputs = widths.get(ours, (dim, dim))
        kernel = left.take(f"{layer}.{theirs}.weight", (outputs, inputs)).T
        bias = left.take(f"{layer}.{theirs}.bias", (outputs,))
        block.setdefault(place, {}).update({name: Dense(np.ascontiguousarray(kernel)), f"{name}_bias": bias})
    return block
