"""Language models: tokens -> logits of the next token, with the architecture that Mixtral, Qwen-MoE, OLMoE and DeepSeekMoE share."""

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.contracts import Experts
from moejax.core.dropout import check_rate, dropout
from moejax.core.errors import SpecError
from moejax.core.outputs import LayerOutput, ModelOutput
from moejax.core.rng import maybe_named, named
from moejax.core.spec import build_method, method
from moejax.layers.attention import check_heads
from moejax.layers.causal_attention import CausalAttention
from moejax.layers.decoder_block import DecoderBlock
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.layers.norms import RMSNorm
from moejax.layers.projection import init_kernel
from moejax.models.depth import apply_blocks, init_blocks
from moejax.models.limits import check_groups, check_sizes
from moejax.models.placement import place
from moejax.models.remat import Remat

_NORMAL = jax.nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """A causal transformer over a vocabulary of `vocab_size` tokens.

    num_kv_heads: heads of keys and values, shared by equal groups of query heads; None: as many as num_heads.
    head_dim: numbers of a head; None: dim / num_heads.
    mlp_dim: hidden width of dense blocks; feed_forward: another bank for them (None: `swiglu` of that width).
    moe, moe_layers: the MoE layer and where it stands ('all', 'everyN', 'finalN', indices; models/placement.py). Its router must
        be causal.
    rope_base, sliding_window, qk_norm: see layers/causal_attention.py; attention_bias is its `bias`.
    norm_epsilon: of all RMS norms. max_length: the most tokens of a sequence.
    tie_embeddings: the head is the table of tokens, turned. The table and the head start normal, std 0.02.
    remat: what the backward pass computes again (models/remat.py). scan: blocks of one kind run as one scan, else unrolled.
    dtype: of activations; parameters, norms, router and logits stay in float32.
    Source: Jiang et al. 2024, "Mixtral of Experts", section 2; Dai et al. 2024, "DeepSeekMoE", section 3; Muennighoff et al.
        2024, "OLMoE", section 3; Yang et al. 2024, "Qwen2 Technical Report", section 2.2.
    """

    leaf_axes: ClassVar[tuple[tuple[str, tuple[str | None, ...]], ...]] = (
        (r"^embedding/tokens$", ("vocab", None)),
        (r"^head/(kernel|v|residual)$", (None, "vocab")),
    )  # as in sharding/rules.py

    vocab_size: int
    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int
    feed_forward: Experts | None = method("experts", default=None)
    moe: MoE | None = None
    moe_layers: str | tuple[int, ...] = "none"
    rope_base: float = 10_000.0
    sliding_window: int | None = None
    attention_bias: Literal["none", "qkv", "all"] = "none"
    qk_norm: Literal["none", "width", "head"] = "none"
    norm_epsilon: float = 1e-6
    max_length: int
    tie_embeddings: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    remat: Remat = "none"
    scan: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(self, ("vocab_size", "dim", "depth", "num_heads", "mlp_dim", "max_length"))
        if self.head_dim is None:
            check_heads(self.num_heads, self.dim)
        check_rate("dropout_rate", self.dropout_rate)
        check_rate("attention_dropout_rate", self.attention_dropout_rate)
        if self.moe is None and self.moe_indices:
            raise SpecError(f"moe_layers={self.moe_layers!r} needs moe=..., the layer to put there (or 'none').")
        if self.moe is not None and not self.moe_indices:
            raise SpecError("moe is given but moe_layers='none'; say where, such as 'all', or set moe=None.")
        _ = self.blocks  # their own checks

    # What the model is made of.

    @property
    def moe_indices(self) -> tuple[int, ...]:
        return place(self.moe_layers, self.depth)

    @property
    def dense_experts(self) -> Experts:
        """The bank whose single expert is the feed-forward layer of dense blocks."""
        return self.feed_forward or build_method("experts", {"name": "swiglu", "expert_dim": self.mlp_dim})

    @property
    def attention(self) -> CausalAttention:
        return CausalAttention(
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            head_dim=self.dim // self.num_heads if self.head_dim is None else self.head_dim,
            rope_base=self.rope_base,
            sliding_window=self.sliding_window,
            bias=self.attention_bias,
            qk_norm=self.qk_norm,
            norm_epsilon=self.norm_epsilon,
            dropout_rate=self.attention_dropout_rate,
        )

    @property
    def blocks(self) -> tuple[DecoderBlock, ...]:
        """One spec per layer."""
        dense, moe = FeedForward(experts=self.dense_experts), self.moe_indices
        return tuple(
            DecoderBlock(
                attention=self.attention,
                mixer=self.moe if i in moe and self.moe else dense,
                norm_epsilon=self.norm_epsilon,
                dropout_rate=self.dropout_rate,
            )
            for i in range(self.depth)
        )

    def check_batch(self, batch_size: int, length: int) -> None:
        """Raises SpecError when sequences are empty or too long, or the tokens of a batch of them make no whole groups."""
        if not 1 <= length <= self.max_length:
            raise SpecError(f"sequences have {length} tokens; this model takes 1 to max_length={self.max_length}.")
        check_groups(self.moe, batch_size, length, inputs="sequences")

    # Parameters.

    def init(self, key: PRNGKeyArray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters {'embedding': {'tokens' [V D]}, 'blocks', 'norm'[, 'head' Dense [D V]]} and state {'blocks': routers'}."""
        blocks, state = init_blocks(self.blocks, key, self.dim)
        table = _NORMAL(named(key, "embedding"), (self.vocab_size, self.dim), jnp.float32)
        params: dict[str, Any] = {"embedding": {"tokens": table}, "blocks": blocks, "norm": self._norm.init(self.dim)}
        if not self.tie_embeddings:
            params["head"] = init_kernel(key, "head", (self.dim, self.vocab_size), _NORMAL)
        return params, {"blocks": state}

    # The forward pass.

    def apply(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        tokens: Int[Array, "B T"],
        *,
        key: PRNGKeyArray | None = None,
        return_plans: bool = False,
    ) -> ModelOutput:
        """Logits [B T vocabulary] of the token after each, with the routers' losses, metrics, new state and, if asked for, plans.

        tokens: from 0 to vocab_size - 1 (others mean nothing). features: [B T D], what the head reads.
        Raises SpecError when sequences are longer than max_length, or the batch does not make whole groups.
        """
        self.check_batch(*tokens.shape)
        x = dropout(self.embed(params, tokens), self.dropout_rate, key=maybe_named(key, "embedding_dropout"))
        out = apply_blocks(
            self.blocks,
            params["blocks"],
            state["blocks"],
            x,
            functools.partial(_apply_block, tokens),
            key=key,
            remat=self.remat,
            scan=self.scan,
            return_plans=return_plans,
        )
        logits, features = self.predict(params, out.tokens)
        return ModelOutput(
            logits=logits,
            features=features,
            state={"blocks": out.state},
            losses=out.losses,
            metrics=out.metrics,
            plans=out.plans,
        )

    def embed(self, params: dict[str, Any], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The vectors of tokens, in the compute dtype."""
        return jnp.take(params["embedding"]["tokens"], tokens, axis=0).astype(self.dtype)

    def predict(
        self, params: dict[str, Any], x: Float[Array, "B T D"]
    ) -> tuple[Float[Array, "B T N"], Float[Array, "B T D"]]:
        """Logits in float32, and the features that the head reads."""
        features = self._norm.apply(params["norm"], x)
        wide = features.astype(jnp.float32)
        if self.tie_embeddings:
            return jnp.einsum("BTD,ND->BTN", wide, params["embedding"]["tokens"].astype(jnp.float32)), features
        return params["head"].matmul(wide), features

    @property
    def _norm(self) -> RMSNorm:
        return RMSNorm(epsilon=self.norm_epsilon)


def _apply_block(
    tokens: Int[Array, "B T"],
    block: DecoderBlock,
    params: Any,
    state: Any,
    x: Float[Array, "B T D"],
    key: PRNGKeyArray | None,
    extra: None,
) -> LayerOutput:
    del extra
    return block.apply(params, state, x, key=key, token_ids=tokens)


EXAMPLES = (
    Decoder(vocab_size=11, dim=8, depth=2, num_heads=2, mlp_dim=12, max_length=16),
    Decoder(
        vocab_size=11,
        dim=8,
        depth=3,
        num_heads=4,
        num_kv_heads=2,
        mlp_dim=12,
        moe=MoE(
            router=build_method(
                "routing", {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "noise_std": 0.0}
            ),
            experts=build_method("experts", {"name": "swiglu", "expert_dim": 6}),
            shared=build_method("experts", {"name": "swiglu", "expert_dim": 10}),
            shared_gate=True,
        ),
        moe_layers=(1, 2),
        sliding_window=3,
        attention_bias="qkv",
        qk_norm="width",
        max_length=16,
        tie_embeddings=True,
    ),
)
