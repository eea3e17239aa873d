"""Diffusion transformers: DiT, and with MoE layers DiT-MoE and whatever a router makes of it."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.contracts import Experts
from moejax.core.errors import SpecError
from moejax.core.outputs import DenoiserOutput, LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.core.spec import build_method, method
from moejax.layers.adaptive_block import AdaptiveBlock, init_modulation, modulated_norm, modulation
from moejax.layers.attention import Attention, check_heads
from moejax.layers.conditioning import LabelEmbedding, TimeEmbedding
from moejax.layers.embeddings import PatchStem
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.layers.positions import sincos_2d
from moejax.layers.projection import init_projection, project
from moejax.models.depth import apply_blocks, init_blocks
from moejax.models.limits import check_groups, check_patches, check_pictures, check_sizes
from moejax.models.placement import place
from moejax.models.remat import Remat

_TIME = TimeEmbedding()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionTransformer:
    """A transformer that says, of a noised picture [image_size, image_size, channels], its time and class, what it hides.

    mlp_dim: hidden width of dense blocks; feed_forward: another bank for them (None: `mlp` of that width).
    moe, moe_layers: the MoE layer and where it stands (models/placement.py); without moe every block is dense.
    label_dropout: share of labels that training replaces by the null label `num_classes`; with 0 there is none.
    learn_variance: a second picture of outputs, see `DenoiserOutput`.
    qk_norm: layer norm, with scale and bias, of queries and keys.
    remat: what the backward pass computes again (models/remat.py). scan: blocks of one kind run as one scan, else unrolled.
    dtype: of activations; parameters, norms, router and output stay in float32.
    Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers"; Fei et al. 2024, "Scaling Diffusion
        Transformers to 16 Billion Parameters" (DiT-MoE).
    Deviations: query, key and value kernels are drawn one by one (xavier uniform), where the released models draw one
        matrix of three times the width; the biases of dense MLPs start at N(0, 1e-6), not 0.
    """

    image_size: int
    patch_size: int
    channels: int = 3
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_classes: int
    label_dropout: float = 0.0
    learn_variance: bool = False
    qk_norm: bool = False
    feed_forward: Experts | None = method("experts", default=None)
    moe: MoE | None = None
    moe_layers: str | tuple[int, ...] = "all"
    remat: Remat = "none"
    scan: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_sizes(
            self, ("image_size", "patch_size", "channels", "dim", "depth", "num_heads", "mlp_dim", "num_classes")
        )
        check_patches(self.patch_size, self.image_size)
        check_heads(self.num_heads, self.dim)
        if self.moe is None and self.moe_layers not in ("all", "none"):
            raise SpecError(f"moe_layers={self.moe_layers!r} needs moe=..., the layer to put there (or 'none').")
        if self.moe is not None and not self.moe_indices:
            raise SpecError("moe is given but moe_layers='none'; say where, such as 'all', or set moe=None.")
        _ = self.labels, self.blocks  # their own checks
        sincos_2d(1, 1, self.dim)

    # What the model is made of.

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def positions(self) -> Float[Array, "1 T D"]:
        """The fixed table of sines and cosines; no parameters, but counted in published totals."""
        rows = self.image_size // self.patch_size
        return jnp.asarray(sincos_2d(rows, rows, self.dim, reach_end=False))[None]

    @property
    def out_channels(self) -> int:
        """Channels that the last layer gives per pixel."""
        return self.channels * (2 if self.learn_variance else 1)

    @property
    def labels(self) -> LabelEmbedding:
        return LabelEmbedding(num_classes=self.num_classes, dropout=self.label_dropout)

    @property
    def stem_spec(self) -> PatchStem:
        return PatchStem(patch_size=self.patch_size, channels=self.channels, dim=self.dim)

    @property
    def moe_indices(self) -> tuple[int, ...]:
        return () if self.moe is None else place(self.moe_layers, self.depth)

    @property
    def dense_experts(self) -> Experts:
        """The bank whose single expert is the feed-forward layer of dense blocks."""
        return self.feed_forward or build_method("experts", {"name": "mlp", "expert_dim": self.mlp_dim})

    @property
    def blocks(self) -> tuple[AdaptiveBlock, ...]:
        """One spec per layer."""
        attention = Attention(num_heads=self.num_heads, qk_norm=self.qk_norm, qk_norm_bias=self.qk_norm)
        dense, moe = FeedForward(experts=self.dense_experts), self.moe_indices
        mixers = (self.moe if i in moe and self.moe else dense for i in range(self.depth))
        return tuple(AdaptiveBlock(attention=attention, mixer=mixer) for mixer in mixers)

    def check_batch(self, batch_size: int) -> None:
        """Raises SpecError when the tokens of `batch_size` pictures do not make whole groups."""
        check_groups(self.moe, batch_size, self.num_tokens)

    # Parameters.

    def init(self, key: PRNGKeyArray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters {'embedding': {'stem', 'time', 'labels'}, 'blocks', 'final'} and state {'blocks': routers'}."""
        blocks, state = init_blocks(self.blocks, key, self.dim)
        inner, outer = named(key, "embedding"), named(key, "final")
        patch = (self.patch_size**2 * self.channels, self.dim)
        embedding = {
            "stem": init_projection(named(inner, "stem"), "patch", patch, jax.nn.initializers.xavier_uniform()),
            "time": _TIME.init(named(inner, "time"), self.dim),
            "labels": self.labels.init(inner, self.dim),
        }
        out = (self.dim, self.patch_size**2 * self.out_channels)
        final = init_modulation(outer, self.dim, 2) | init_projection(outer, "out", out, jax.nn.initializers.zeros)
        return {"embedding": embedding, "blocks": blocks, "final": final}, {"blocks": state}

    # The forward pass.

    def apply(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        x: Float[Array, "B height width channels"],
        time: Float[Array, " B"],
        label: Int[Array, " B"],
        *,
        key: PRNGKeyArray | None = None,
        return_plans: bool = False,
    ) -> DenoiserOutput:
        """What the model says of noised pictures x. time: in the unit of its embedding (a process's `model_time`).

        With a key, labels are dropped. Raises SpecError when the pictures have another shape, the batch does not make
        whole groups, or a label that is no tracer is out of range.
        """
        check_pictures(x.shape, self.image_size, self.channels)
        self.check_batch(x.shape[0])
        condition = self.condition(params["embedding"], time, label, key=maybe_named(key, "embedding"))
        out = apply_blocks(
            self.blocks,
            params["blocks"],
            state["blocks"],
            self.embed(params["embedding"], x),
            functools.partial(_apply_block, condition, time),
            key=key,
            remat=self.remat,
            scan=self.scan,
            return_plans=return_plans,
        )
        prediction = self.predict(params["final"], out.tokens, condition)
        pictures = jnp.split(prediction, 2, axis=-1) if self.learn_variance else [prediction, None]
        return DenoiserOutput(
            prediction=pictures[0],
            variance=pictures[1],
            state={"blocks": out.state},
            losses=out.losses,
            metrics=out.metrics,
            plans=out.plans,
        )

    def embed(self, params: dict[str, Any], x: Float[Array, "B height width channels"]) -> Float[Array, "B T D"]:
        """Tokens with their positions, in the compute dtype."""
        grid = self.stem_spec.apply(params["stem"], x.astype(self.dtype))
        tokens = grid.reshape(x.shape[0], -1, self.dim)
        return tokens + self.positions.astype(tokens.dtype)

    def condition(
        self,
        params: dict[str, Any],
        time: Float[Array, " B"],
        label: Int[Array, " B"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B D"]:
        """The sum of the embeddings of time and label, in the compute dtype."""
        labels = self.labels.apply(params["labels"], label, key=maybe_named(key, "label_dropout"))
        return _TIME.apply(params["time"], time, self.dtype) + labels.astype(self.dtype)

    def predict(
        self, params: dict[str, Any], x: Float[Array, "B T D"], condition: Float[Array, "B D"]
    ) -> Float[Array, "B height width out_channels"]:
        """Pixels from tokens, in float32."""
        shift, scale = modulation(params, condition, 2)
        return self.unpatchify(project(params, "out", modulated_norm(x, shift, scale).astype(jnp.float32)))

    def unpatchify(self, patches: Float[Array, "B T F"]) -> Float[Array, "B height width out_channels"]:
        """Patches (row by row, inside them pixel row, pixel column, channel) laid out as pictures."""
        size, rows = self.patch_size, self.image_size // self.patch_size
        grid = patches.reshape(patches.shape[0], rows, rows, size, size, -1).transpose(0, 1, 3, 2, 4, 5)
        return grid.reshape(patches.shape[0], self.image_size, self.image_size, -1)


def _apply_block(
    condition: Float[Array, "B D"],
    time: Float[Array, " B"],
    block: AdaptiveBlock,
    params: Any,
    state: Any,
    x: Float[Array, "B T D"],
    key: PRNGKeyArray | None,
    _: None,
) -> LayerOutput:
    return block.apply(params, state, x, condition, time, key=key)


EXAMPLES = (
    DiffusionTransformer(image_size=8, patch_size=4, dim=8, depth=2, num_heads=2, mlp_dim=16, num_classes=3),
    DiffusionTransformer(
        image_size=8,
        patch_size=4,
        channels=4,
        dim=8,
        depth=2,
        num_heads=2,
        mlp_dim=16,
        num_classes=3,
        label_dropout=0.1,
        learn_variance=True,
        qk_norm=True,
    ),
)
