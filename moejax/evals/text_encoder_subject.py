"""A text encoder as a subject of compression: how close its vectors stay to those of the uncompressed one.

Source: ours. Gradients for the Fisher kinds: an encoder has no labels, so each example draws a normal vector e and takes the
gradient of e . f(x); its second moment is the Fisher matrix of a normal distribution around f(x), which is the second-order
growth of the squared distance between vectors (Martens 2020, "New Insights and Perspectives on the Natural Gradient", section 9).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.compress.collect import Collected, collect
from moejax.evals.embedding_similarity import similarity
from moejax.evals.flops import count_flops
from moejax.linear.contract import is_leaf
from moejax.models.text_encoder import TextEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderSubject:
    """An encoder, tokens [N T] that are held out and tokens by seed for calibration; both without padding.

    batch_size: texts at once, of calibration, quality and `inputs`. passes: over the calibration data for Kronecker factors.
    gradient_batches: how many batches the kinds from single gradients take.
    """

    name: str
    encoder: TextEncoder
    params: Any
    calibration: Callable[[int], Int[np.ndarray, "N T"]]
    held_out: Int[np.ndarray, "N T"]
    batch_size: int = 32
    passes: int = 2
    gradient_batches: int = 2
    only: str = r"blocks/\d+/(attention/(query|key|value|out)|feed_forward/(up|down))$"
    headline: str = "cosine"

    @property
    def num_examples(self) -> int:
        """Of `inputs`."""
        return self.inputs.shape[0]

    @property
    def inputs(self) -> Int[Array, "B T"]:
        """The first batch of what is held out."""
        return jnp.asarray(self.held_out[: self.batch_size])

    def collect(self, kinds: Sequence[str], *, seed: int, params: Any = None, only: str | None = None) -> Collected:
        """Statistics over the calibration texts of that seed."""
        tokens = self.calibration(seed)
        noise = np.random.default_rng(seed).normal(size=(len(tokens), self.encoder.dim)).astype(np.float32)
        batches = [
            {
                "tokens": jnp.asarray(tokens[i : i + self.batch_size]),
                "noise": jnp.asarray(noise[i : i + self.batch_size]),
            }
            for i in range(0, len(tokens), self.batch_size)
        ]
        passes = self.passes if "kronecker" in kinds else 1
        return collect(
            lambda params, batch: self.apply(params, batch["tokens"]),
            self.params if params is None else params,
            batches,
            kinds,
            only=only or self.only,
            loss=lambda params, batch: jnp.sum(self.apply(params, batch["tokens"]) * batch["noise"]),
            passes=passes,
            gradient_batches=self.gradient_batches,
        )

    def quality(self, params: Any) -> dict[str, float]:
        """'cosine' and 'spearman' of `embedding_similarity` against the uncompressed encoder."""
        return similarity(self._vectors(params), self._original)

    def apply(self, params: Any, inputs: Int[Array, "B T"]) -> Float[Array, "B D"]:
        """One vector per text."""
        return self.encoder.text_vectors(params, inputs)

    def flops(self, params: Any) -> int:
        """Of one text: what the weights say of themselves, and all other products as they are counted."""
        rest = count_flops(self.apply, self.params, self.inputs[:1]) - self._weight_flops(self.params)
        return rest + self._weight_flops(params)

    def _weight_flops(self, params: Any) -> int:
        leaves = [node for node in jax.tree.leaves(params, is_leaf=is_leaf) if is_leaf(node)]
        return sum(self.inputs.shape[1] * leaf.flops_per_row() + leaf.flops_once() for leaf in leaves)

    @functools.cached_property
    def _original(self) -> Float[np.ndarray, "N D"]:
        return self._vectors(self.params)

    def _vectors(self, params: Any) -> Float[np.ndarray, "N D"]:
        apply, size = jax.jit(self.apply), self.batch_size
        padded = np.pad(self.held_out, ((0, -len(self.held_out) % size), (0, 0)))  # one shape, one program
        parts = [np.asarray(apply(params, jnp.asarray(padded[i : i + size]))) for i in range(0, len(padded), size)]
        return np.concatenate(parts)[: len(self.held_out)]
