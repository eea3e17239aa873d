"""Vision transformers: ViT, and with MoE layers V-MoE, Soft MoE and whatever a router makes of it."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.contracts import Experts
from moejax.core.dropout import check_rate, dropout
from moejax.core.errors import SpecError
from moejax.core.outputs import LayerOutput, ModelOutput
from moejax.core.rng import maybe_named, named
from moejax.core.spec import build_method, method
from moejax.layers.attention import Attention, check_heads
from moejax.layers.block import Block
from moejax.layers.embeddings import Stem, build_stem
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.layers.norms import LayerNorm
from moejax.layers.pooling import AttentionPooling
from moejax.layers.positions import sincos_2d
from moejax.layers.projection import init_projection, project
from moejax.layers.shortcut_block import ShortcutBlock
from moejax.models.depth import apply_blocks, init_blocks
from moejax.models.limits import check_groups, check_patches, check_pictures, check_sizes
from moejax.models.placement import place
from moejax.models.remat import Remat

_NORM = LayerNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTransformer:
    """A ViT classifier for pictures [image_size, image_size, channels].

    stem: 'patch' | 'overlap' | 'conv' | 'two_stage' (layers/embeddings.py), of total stride patch_size.
    mlp_dim: hidden width of dense blocks; feed_forward: another bank for them (None: `mlp` of that width).
    moe, moe_layers: the MoE layer and where it stands ('everyN', 'lastN', 'finalN', indices; models/placement.py).
    positions: 'learned' (normal, std 0.02; the class token has one) | 'sincos' (fixed; the class token has none).
    pooling: 'cls' adds a class token in front | 'avg' | 'map' (attention pooling).
    representation_size: width of a tanh layer before the head, None for none. The head's kernel starts at zero, its
    bias at head_bias (such as -log(num_classes)).
    shortcut: MoE layers read the previous block's tokens before its mixer, and add `moe.shared` of their own (layers/shortcut_block.py).
    drop_path_rate: stochastic depth, rising linearly from 0 to this rate at the last layer.
    remat: what the backward pass computes again (models/remat.py). scan: blocks of one kind run as one scan, else unrolled.
    dtype: of activations; parameters, norms, router and logits stay in float32.
    Source: Dosovitskiy et al. 2021; Riquelme et al. 2021 (V-MoE); Puigcerver et al. 2024 (Soft MoE).
    """

    image_size: int
    patch_size: int
    channels: int = 3
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_classes: int
    stem: str = "patch"
    positions: Literal["learned", "sincos"] = "learned"
    pooling: Literal["cls", "avg", "map"] = "cls"
    qk_norm: bool = False
    feed_forward: Experts | None = method("experts", default=None)
    moe: MoE | None = None
    moe_layers: str | tuple[int, ...] = "none"
    shortcut: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    representation_size: int | None = None
    head_bias: float = 0.0
    remat: Remat = "none"
    scan: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(
            self, ("image_size", "patch_size", "channels", "dim", "depth", "num_heads", "mlp_dim", "num_classes")
        )
        check_patches(self.patch_size, self.image_size)
        if self.representation_size is not None and self.representation_size < 1:
            raise SpecError(f"representation_size={self.representation_size} must be at least 1, or None for none.")
        check_heads(self.num_heads, self.dim)
        for name in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
            check_rate(name, getattr(self, name))
        self._check_moe()
        _ = self.stem_spec, self.blocks  # their own checks
        if self.positions == "sincos":
            sincos_2d(1, 1, self.dim)

    def _check_moe(self) -> None:
        if self.moe is None and self.moe_indices:
            raise SpecError(f"moe_layers={self.moe_layers!r} needs moe=..., the layer to put there (or 'none').")
        if self.moe is not None and not self.moe_indices:
            raise SpecError("moe is given but moe_layers='none'; say where, such as 'every2', or set moe=None.")
        if self.shortcut and (not self.moe_indices or self.moe_indices[0] == 0):
            raise SpecError(
                f"shortcut=True reads the block before an MoE layer, but moe_layers={self.moe_layers!r} has "
                + ("its first at 0; begin at 1." if self.moe_indices else "none.")
            )

    # What the model is made of.

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture, the class token included; group sizes count it."""
        return self.num_patches + (self.pooling == "cls")

    @property
    def moe_indices(self) -> tuple[int, ...]:
        return place(self.moe_layers, self.depth)

    @property
    def stem_spec(self) -> Stem:
        return build_stem(self.stem, patch_size=self.patch_size, channels=self.channels, dim=self.dim)

    @property
    def dense_experts(self) -> Experts:
        """The bank whose single expert is the feed-forward layer of dense blocks."""
        return self.feed_forward or build_method("experts", {"name": "mlp", "expert_dim": self.mlp_dim})

    @property
    def blocks(self) -> tuple[Block, ...]:
        """One spec per layer."""
        attention = Attention(num_heads=self.num_heads, qk_norm=self.qk_norm, dropout_rate=self.attention_dropout_rate)
        dense, moe = FeedForward(experts=self.dense_experts), self.moe_indices
        kind = ShortcutBlock if self.shortcut else Block
        return tuple(
            kind(attention=attention, mixer=self.moe, dropout_rate=self.dropout_rate)
            if i in moe and self.moe
            else Block(attention=attention, mixer=dense, dropout_rate=self.dropout_rate)
            for i in range(self.depth)
        )

    @property
    def pool(self) -> AttentionPooling:
        """The pooling layer of pooling='map'."""
        return AttentionPooling(num_heads=self.num_heads, experts=self.dense_experts)

    def check_batch(self, batch_size: int) -> None:
        """Raises SpecError when the tokens of `batch_size` pictures do not make whole groups."""
        check_groups(self.moe, batch_size, self.num_tokens)

    # Parameters.

    def init(self, key: PRNGKeyArray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters {'embedding', 'blocks', 'norm'[, 'pool', 'pre_logits'], 'head'} and state {'blocks': routers'}."""
        blocks, state = init_blocks(self.blocks, key, self.dim)
        params = {"embedding": self._init_embedding(named(key, "embedding")), "blocks": blocks}
        return params | self._init_head(named(key, "head")), {"blocks": state}

    def _init_embedding(self, key: PRNGKeyArray) -> dict[str, Any]:
        params: dict[str, Any] = {"stem": self.stem_spec.init(named(key, "stem"))}
        if self.pooling == "cls":
            params["class_token"] = jnp.zeros((1, 1, self.dim))
        if self.positions == "learned":
            params["positions"] = 0.02 * jax.random.normal(named(key, "positions"), (1, self.num_tokens, self.dim))
        return params

    def _init_head(self, key: PRNGKeyArray) -> dict[str, Any]:
        params: dict[str, Any] = {"norm": _NORM.init(self.dim)}
        width = self.dim
        if self.pooling == "map":
            params["pool"] = self.pool.init(named(key, "pool"), self.dim)
        if self.representation_size is not None:
            shape = (self.dim, width := self.representation_size)
            params |= init_projection(key, "pre_logits", shape, jax.nn.initializers.lecun_normal())
        zeros = jax.nn.initializers.zeros
        return params | init_projection(key, "head", (width, self.num_classes), zeros, bias=self.head_bias)

    # The forward pass.

    def apply(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        images: Float[Array, "B height width channels"],
        *,
        key: PRNGKeyArray | None = None,
        return_plans: bool = False,
    ) -> ModelOutput:
        """Logits of a batch, with the routers' losses, metrics, new state and, if asked for, plans.

        Raises SpecError when the pictures have another shape, or the batch does not make whole groups.
        """
        check_pictures(images.shape, self.image_size, self.channels)
        self.check_batch(images.shape[0])
        x = self.embed(params["embedding"], images, key=maybe_named(key, "embedding"))
        out = apply_blocks(
            self.blocks,
            params["blocks"],
            state["blocks"],
            x,
            _apply_block,
            extras=[self._layer_drop_path_rate(i) for i in range(self.depth)],
            key=key,
            remat=self.remat,
            scan=self.scan,
            return_plans=return_plans,
        )
        logits, features = self.classify(params, out.tokens, key=maybe_named(key, "head"))
        return ModelOutput(
            logits=logits,
            features=features,
            state={"blocks": out.state},
            losses=out.losses,
            metrics=out.metrics,
            plans=out.plans,
        )

    def embed(
        self,
        params: dict[str, Any],
        images: Float[Array, "B height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        """Tokens with their positions, in the compute dtype."""
        grid = self.stem_spec.apply(params["stem"], images.astype(self.dtype))
        batch, rows, columns, dim = grid.shape
        x = grid.reshape(batch, rows * columns, dim)
        if self.positions == "sincos":
            x = x + jnp.broadcast_to(jnp.asarray(sincos_2d(rows, columns, dim), x.dtype), x.shape)
        if self.pooling == "cls":
            token = jnp.broadcast_to(params["class_token"].astype(x.dtype), (batch, 1, dim))
            x = jnp.concatenate([token, x], axis=1)
        if self.positions == "learned":
            x = x + params["positions"].astype(x.dtype)
        return dropout(x, self.dropout_rate, key=maybe_named(key, "dropout"))

    def _layer_drop_path_rate(self, layer: int) -> Float[Array, ""] | None:
        if self.drop_path_rate == 0.0:
            return None
        return jnp.asarray(self.drop_path_rate * layer / max(self.depth - 1, 1), jnp.float32)

    def classify(
        self, params: dict[str, Any], x: Float[Array, "B T D"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B N"], Float[Array, "B F"]]:
        """Logits in float32, and the features [B D] (or [B representation_size]) that the head reads."""
        x = _NORM.apply(params["norm"], x)
        if self.pooling == "map":
            features = self.pool.apply(params["pool"], x, key=maybe_named(key, "pool"))
        else:
            features = x[:, 0] if self.pooling == "cls" else x.mean(1)
        if self.representation_size is not None:
            features = jnp.tanh(project(params, "pre_logits", features))
        return project(params, "head", features.astype(jnp.float32)), features


def _apply_block(
    block: Block, params: Any, state: Any, x: Float[Array, "B T D"], key: PRNGKeyArray | None, rate: Any, **given: Any
) -> LayerOutput:
    return block.apply(params, state, x, key=key, drop_path_rate=rate, **given)


EXAMPLES = (
    VisionTransformer(image_size=8, patch_size=4, dim=8, depth=2, num_heads=2, mlp_dim=16, num_classes=3),
    VisionTransformer(
        image_size=8,
        patch_size=4,
        dim=8,
        depth=2,
        num_heads=2,
        mlp_dim=16,
        num_classes=3,
        stem="conv",
        positions="sincos",
        pooling="map",
        qk_norm=True,
    ),
)
