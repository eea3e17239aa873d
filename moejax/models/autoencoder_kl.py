"""The convolutional autoencoder of latent diffusion: pictures <-> a smaller grid of Gaussian latents.

Plain parameters, two pure functions. Nothing here is trained; `interop/autoencoder_kl.py` reads published weights.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.layers.convolution import convolve, init_convolution
from moejax.layers.group_norm import GroupNorm
from moejax.layers.projection import init_projection, project

_LECUN = jax.nn.initializers.lecun_normal()
LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderKL:
    """Encoder and decoder of ResNet blocks, with self-attention in the middle. The defaults are Stable Diffusion's.

    channels: of a picture. latent_channels: of a latent. widths: of the levels, finest first; between levels the side
    halves. blocks_per_level: ResNet blocks of an encoder level; a decoder level has one more. num_groups: of every norm.
    scale: factor on latents, so that a diffusion model sees a standard deviation near 1.
    Latents are scaled wherever they meet this interface: `encode` has multiplied, `decode` divides.
    Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1, appendices
        G (KL regularisation, scale) and E; the blocks as in its public code: SiLU, norms with epsilon 1e-6, downsampling by a
        3x3 convolution of stride 2 padded on the right and below, upsampling by doubling and a 3x3 convolution.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks_per_level: int = 2
    num_groups: int = 32
    scale: float = 0.18215

    def __post_init__(self) -> None:
        sizes = (self.channels, self.latent_channels, self.blocks_per_level, *self.widths)
        if not self.widths or min(sizes) < 1:
            raise SpecError(f"{self}: needs at least one level, and sizes of at least 1.")
        if not self.scale > 0:
            raise SpecError(f"scale={self.scale} must be positive (0.18215 for Stable Diffusion's first autoencoder).")
        for width in self.widths:
            self.norm.check(width)

    @property
    def norm(self) -> GroupNorm:
        return GroupNorm(num_groups=self.num_groups)

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per place of a latent's."""
        return 2 ** (len(self.widths) - 1)

    # Parameters.

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """{'encoder', 'decoder'}, each of convolutions 'in' and 'out', 'levels', 'middle' and 'norm_out'; random."""
        return {
            "encoder": self._init_encoder(named(key, "encoder")),
            "decoder": self._init_decoder(named(key, "decoder")),
        }

    def _init_encoder(self, key: PRNGKeyArray) -> dict[str, Any]:
        before, levels = self.widths[0], {}
        for i, width in enumerate(self.widths):
            own = named(key, f"level_{i}")
            level = self._init_level(own, before, width, self.blocks_per_level)
            if i + 1 < len(self.widths):
                level |= init_convolution(own, "down", 3, width, width)
            levels[str(i)], before = level, width
        moments = 2 * self.latent_channels
        ends = self._init_ends(key, self.channels, self.widths[0], before, moments)
        quant = init_convolution(key, "quant", 1, moments, moments)
        return ends | quant | {"levels": levels, "middle": self._init_middle(named(key, "middle"), before)}

    def _init_decoder(self, key: PRNGKeyArray) -> dict[str, Any]:
        before, levels = self.widths[-1], {}
        for i, width in enumerate(reversed(self.widths)):
            own = named(key, f"level_{i}")
            level = self._init_level(own, before, width, self.blocks_per_level + 1)
            if i + 1 < len(self.widths):
                level |= init_convolution(own, "up", 3, width, width)
            levels[str(i)], before = level, width
        ends = self._init_ends(key, self.latent_channels, self.widths[-1], before, self.channels)
        quant = init_convolution(key, "quant", 1, self.latent_channels, self.latent_channels)
        return ends | quant | {"levels": levels, "middle": self._init_middle(named(key, "middle"), self.widths[-1])}

    def _init_ends(self, key: PRNGKeyArray, inputs: int, first: int, last: int, outputs: int) -> dict[str, Any]:
        convolutions = init_convolution(key, "in", 3, inputs, first) | init_convolution(key, "out", 3, last, outputs)
        return convolutions | {"norm_out": self.norm.init(last)}

    def _init_level(self, key: PRNGKeyArray, before: int, width: int, count: int) -> dict[str, Any]:
        inputs = (before, *(width,) * (count - 1))
        blocks = {str(j): self._init_block(named(key, f"block_{j}"), n, width) for j, n in enumerate(inputs)}
        return {"blocks": blocks}

    def _init_block(self, key: PRNGKeyArray, before: int, width: int) -> dict[str, Any]:
        convolutions = init_convolution(key, "conv_1", 3, before, width) | init_convolution(
            key, "conv_2", 3, width, width
        )
        block = convolutions | {"norm_1": self.norm.init(before), "norm_2": self.norm.init(width)}
        return block if before == width else block | init_convolution(key, "shortcut", 1, before, width)

    def _init_middle(self, key: PRNGKeyArray, width: int) -> dict[str, Any]:
        blocks = {str(j): self._init_block(named(key, f"block_{j}"), width, width) for j in range(2)}
        attention: dict[str, Any] = {"norm": self.norm.init(width)}
        for name in ("query", "key", "value", "out"):
            attention |= init_projection(key, name, (width, width), _LECUN)
        return {"blocks": blocks, "attention": attention}

    # The two ways.

    def encode(
        self, params: dict[str, Any], images: Float[Array, "B height width channels"]
    ) -> tuple[Float[Array, "B rows columns latents"], Float[Array, "B rows columns latents"]]:
        """Mean and standard deviation of the scaled latents of pictures in [-1, 1].

        A side of the latent is that of the picture over `factor`. Raises SpecError for other channels, or a side that
        does not divide.
        """
        height, width, channels = images.shape[1:]
        if channels != self.channels or height % self.factor or width % self.factor:
            raise SpecError(
                f"pictures [{height}, {width}, {channels}] do not fit: {self.channels} channels and sides that are "
                f"multiples of {self.factor} are needed."
            )
        own = params["encoder"]
        x = convolve(own, "in", images)
        for i in range(len(self.widths)):
            level = own["levels"][str(i)]
            x = self._blocks(level["blocks"], x)
            if i + 1 < len(self.widths):
                x = convolve(level, "down", x, stride=2, padding=((0, 1), (0, 1)))
        x = self._leave(own, self._middle(own["middle"], x))
        mean, log_variance = jnp.split(convolve(own, "quant", x, padding="VALID"), 2, axis=-1)
        std = jnp.exp(0.5 * jnp.clip(log_variance, *LOG_VARIANCE_RANGE))
        return self.scale * mean, self.scale * std

    def decode(
        self, params: dict[str, Any], latents: Float[Array, "B rows columns latents"]
    ) -> Float[Array, "B height width channels"]:
        """Pictures, about [-1, 1], of scaled latents. Raises SpecError for latents of other channels."""
        if latents.shape[-1] != self.latent_channels:
            raise SpecError(f"latents have {latents.shape[-1]} channels; the decoder takes {self.latent_channels}.")
        own = params["decoder"]
        x = convolve(own, "quant", latents / self.scale, padding="VALID")
        x = self._middle(own["middle"], convolve(own, "in", x))
        for i in range(len(self.widths)):
            level = own["levels"][str(i)]
            x = self._blocks(level["blocks"], x)
            if i + 1 < len(self.widths):
                x = convolve(level, "up", jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
        return self._leave(own, x)

    def _leave(self, params: dict[str, Any], x: Array) -> Array:
        return convolve(params, "out", jax.nn.silu(self.norm.apply(params["norm_out"], x)))

    def _blocks(self, params: dict[str, Any], x: Array) -> Array:
        for j in range(len(params)):
            x = self._block(params[str(j)], x)
        return x

    def _block(self, params: dict[str, Any], x: Array) -> Array:
        y = convolve(params, "conv_1", jax.nn.silu(self.norm.apply(params["norm_1"], x)))
        y = convolve(params, "conv_2", jax.nn.silu(self.norm.apply(params["norm_2"], y)))
        return y + (convolve(params, "shortcut", x, padding="VALID") if "shortcut_kernel" in params else x)

    def _middle(self, params: dict[str, Any], x: Array) -> Array:
        x = self._block(params["blocks"]["0"], x)
        x = x + self._attend(params["attention"], x)
        return self._block(params["blocks"]["1"], x)

    def _attend(self, params: dict[str, Any], x: Array) -> Array:
        tokens = self.norm.apply(params["norm"], x).reshape(x.shape[0], -1, x.shape[-1])
        query, key, value = (project(params, name, tokens) for name in ("query", "key", "value"))
        scores = jnp.einsum("BTD,BSD->BTS", query, key).astype(jnp.float32) * x.shape[-1] ** -0.5
        mixed = jnp.einsum("BTS,BSD->BTD", jax.nn.softmax(scores, axis=-1).astype(x.dtype), value)
        return project(params, "out", mixed).reshape(x.shape)
