"""Text encoders of BERT's kind: tokens -> one vector per token, and one per text."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.core.segments import apply_segment, segments, segments_named, stack
from moejax.core.spec import build_method
from moejax.layers.attention import Attention, check_heads
from moejax.layers.feed_forward import FeedForward
from moejax.layers.norms import LayerNorm
from moejax.layers.post_norm_block import PostNormBlock


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A bidirectional transformer with post-norm blocks.

    vocabulary_size: number of tokens. max_length: learned positions, the longest text. num_token_types: kinds of segments
        (BERT tells two texts of a pair apart by them; all tokens are of type 0 here).
    mlp_dim: hidden width. epsilon: of all layer norms. from_rank_space: see `layers.attention.Attention`.
    dtype: of activations; parameters and norms stay in float32.
    Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3 (GELU in its erf form);
        one vector per text: Reimers and Gurevych 2019, "Sentence-BERT", section 3 (the mean over tokens).
    Deviations: no dropout; no pooler and no heads of pre-training.
    """

    vocabulary_size: int
    max_length: int
    num_token_types: int = 2
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    epsilon: float = 1e-12
    from_rank_space: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "max_length", "num_token_types", "dim", "depth", "num_heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be at least 1.")
        check_heads(self.num_heads, self.dim)
        _ = self._norm  # its own check

    @property
    def blocks(self) -> tuple[PostNormBlock, ...]:
        """One spec per layer."""
        experts = build_method("experts", {"name": "mlp", "expert_dim": self.mlp_dim, "activation": "gelu_exact"})
        block = PostNormBlock(
            attention=Attention(num_heads=self.num_heads, from_rank_space=self.from_rank_space),
            feed_forward=FeedForward(experts=experts),
            epsilon=self.epsilon,
        )
        return (block,) * self.depth

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """{'embedding': {'tokens' [vocabulary D], 'positions', 'token_types', 'norm'}, 'blocks'}: normal, std 0.02."""
        sizes = {"tokens": self.vocabulary_size, "positions": self.max_length, "token_types": self.num_token_types}
        embedding: dict[str, Any] = {
            name: 0.02 * jax.random.normal(named(key, name), (size, self.dim)) for name, size in sizes.items()
        }
        blocks = {}
        for segment in segments(self.blocks):
            keys = [named(key, f"block_{i:02d}") for i in segment.layers]
            trees = [segment.spec.init(k, self.dim) for k in keys]
            blocks[segment.name] = trees[0] if segment.length == 1 else stack(trees)
        return {"embedding": embedding | {"norm": self._norm.init(self.dim)}, "blocks": blocks}

    def apply(
        self, params: dict[str, Any], tokens: Int[Array, "B T"], *, mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """A vector per token. mask: false for padding, which nobody sees (None: all are text).

        What comes out at padding means nothing. Raises SpecError for texts longer than `max_length`.
        """
        x = self._embed(params["embedding"], tokens)

        for segment in segments_named(params["blocks"], self.blocks):
            layer = functools.partial(_apply_block, segment.spec, mask)
            x, _ = apply_segment(layer, segment, params["blocks"][segment.name], x, [()] * segment.length)
        return x

    def text_vectors(
        self, params: dict[str, Any], tokens: Int[Array, "B T"], *, mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B D"]:
        """A vector of length one per text, the mean over its tokens normed, in float32: cosines are inner products."""
        x = self.apply(params, tokens, mask=mask).astype(jnp.float32)
        weight = jnp.ones(tokens.shape, jnp.float32) if mask is None else mask.astype(jnp.float32)
        mean = jnp.einsum("BTD,BT->BD", x, weight) / jnp.maximum(weight.sum(1, keepdims=True), 1.0)
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    def _embed(self, params: dict[str, Any], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        length = tokens.shape[1]
        if length > self.max_length:
            raise SpecError(f"texts have {length} tokens and max_length={self.max_length}; cut them.")
        x = jnp.take(params["tokens"], tokens, axis=0)
        x = x + jnp.broadcast_to(params["positions"][:length] + params["token_types"][:1], x.shape)
        return self._norm.apply(params["norm"], x).astype(self.dtype)

    @property
    def _norm(self) -> LayerNorm:
        return LayerNorm(epsilon=self.epsilon)


def _apply_block(
    block: PostNormBlock, mask: Bool[Array, "B T"] | None, params: Any, x: Float[Array, "B T D"], _: Any
) -> tuple[Float[Array, "B T D"], None]:
    return block.apply(params, x, mask=mask), None


EXAMPLES = (
    TextEncoder(vocabulary_size=11, max_length=7, dim=8, depth=2, num_heads=2, mlp_dim=16),
    TextEncoder(vocabulary_size=11, max_length=7, dim=8, depth=1, num_heads=4, mlp_dim=12, from_rank_space=True),
)
