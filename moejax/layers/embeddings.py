"""Stems: pictures -> a grid of tokens. Another stem is another class here and one line in `STEMS`.

Every stem takes `patch_size` (its total stride), the number of input `channels` and the width `dim` that it gives.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.rng import named
from moejax.layers.norms import LayerNorm
from moejax.layers.projection import init_projection, project

_LECUN = jax.nn.initializers.lecun_normal()
_NORM = LayerNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchStem:
    """Patches that do not overlap, each projected by one matrix [p*p*channels, D] with bias.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1, equation 1 (lecun normal, as Flax's
        convolution; the rows of the kernel run over height, width, channel).
    """

    patch_size: int
    channels: int
    dim: int

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """{'patch': Dense, 'patch_bias'}."""
        return init_projection(key, "patch", (self.patch_size**2 * self.channels, self.dim), _LECUN)

    def apply(
        self, params: dict[str, Any], images: Float[Array, "B height width channels"]
    ) -> Float[Array, "B rows columns D"]:
        """One token per patch."""
        size = self.patch_size
        batch, height, width, channels = images.shape
        rows, columns = height // size, width // size
        patches = images.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        return project(params, "patch", patches.reshape(batch, rows, columns, -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverlapStem:
    """Patches that overlap: one convolution of size 2p - 1 with stride p, so that neighbours share pixels.

    Source: the overlapping patch embedding of Xie et al. 2021, "SegFormer", section 3.1 (there kernel 7, stride 4).
    """

    patch_size: int
    channels: int
    dim: int

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """{'patch_kernel': [2p-1, 2p-1, channels, D], 'patch_bias'}."""
        size = 2 * self.patch_size - 1
        return _init_convolution(key, "patch", (size, size, self.channels, self.dim))

    def apply(
        self, params: dict[str, Any], images: Float[Array, "B height width channels"]
    ) -> Float[Array, "B rows columns D"]:
        """One token per stride."""
        return _convolve(params, "patch", images, stride=self.patch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvStem:
    """log2(p) convolutions 3x3 of stride 2, each with layer norm and GELU, then a 1x1 projection to D.

    The widths double up to D. For pictures of 32x32, patch_size 4 makes two convolutions and 64 tokens.
    Source: Xiao et al. 2021, "Early Convolutions Help Transformers See Better", section 4.
    Deviations: layer norm over channels (one picture does not depend on the batch) and GELU, not batch norm and ReLU.
    """

    patch_size: int
    channels: int
    dim: int

    def __post_init__(self) -> None:
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise SpecError(f"patch_size={self.patch_size} must be a power of two, at least 2, for stem='conv'.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each convolution."""
        depth = self.patch_size.bit_length() - 1
        return tuple(max(self.dim >> (depth - 1 - i), 1) for i in range(depth))

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """{'conv_0_kernel', 'conv_0_bias', 'norm_0', ..., 'patch': Dense, 'patch_bias'}."""
        params: dict[str, Any] = {}
        before = self.channels
        for i, width in enumerate(self.widths):
            params |= _init_convolution(key, f"conv_{i}", (3, 3, before, width)) | {f"norm_{i}": _NORM.init(width)}
            before = width
        return params | init_projection(key, "patch", (before, self.dim), _LECUN)

    def apply(
        self, params: dict[str, Any], images: Float[Array, "B height width channels"]
    ) -> Float[Array, "B rows columns D"]:
        """One token per p x p pixels; it sees a little more than those."""
        x = images
        for i in range(len(self.widths)):
            x = jax.nn.gelu(_NORM.apply(params[f"norm_{i}"], _convolve(params, f"conv_{i}", x, stride=2)))
        return project(params, "patch", x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStageStem:
    """Patches of p pixels at stride p / 2, layer norm and GELU, then a 3x3 convolution of stride 2 to D.

    The first stage has 2/3 of the width, rounded up. Cheaper than three 3x3
    convolutions.
    Source: ours, after Xiao et al. 2021 (early convolutions) and Touvron et al. 2022, "Three things everyone should know
    about Vision Transformers", section 5 (hierarchical patch stem).
    """

    patch_size: int
    channels: int
    dim: int

    def __post_init__(self) -> None:
        if self.patch_size < 4 or self.patch_size % 4:
            raise SpecError(f"patch_size={self.patch_size} must be a multiple of 4 for stem='two_stage'.")

    @property
    def width(self) -> int:
        """Channels after the first stage."""
        return -(-2 * self.dim // 3)

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """{'conv_0': [p, p, channels, width], 'norm_0', 'conv_1': [3, 3, width, D], and their biases}."""
        size = self.patch_size
        first = _init_convolution(key, "conv_0", (size, size, self.channels, self.width))
        return (
            first | {"norm_0": _NORM.init(self.width)} | _init_convolution(key, "conv_1", (3, 3, self.width, self.dim))
        )

    def apply(
        self, params: dict[str, Any], images: Float[Array, "B height width channels"]
    ) -> Float[Array, "B rows columns D"]:
        """One token per p x p pixels; it sees 2p x 2p of them."""
        x = _convolve(params, "conv_0", images, stride=self.patch_size // 2)
        x = jax.nn.gelu(_NORM.apply(params["norm_0"], x))
        return _convolve(params, "conv_1", x, stride=2)


Stem = PatchStem | OverlapStem | ConvStem | TwoStageStem
STEMS: dict[str, type[Stem]] = {
    "patch": PatchStem,
    "overlap": OverlapStem,
    "conv": ConvStem,
    "two_stage": TwoStageStem,
}


def build_stem(name: str, *, patch_size: int, channels: int, dim: int) -> Stem:
    """The stem called `name`. Raises SpecError for an unknown name."""
    if name not in STEMS:
        raise SpecError(f"stem={name!r} is unknown.{did_you_mean(name, STEMS)}")
    return STEMS[name](patch_size=patch_size, channels=channels, dim=dim)


def _init_convolution(key: PRNGKeyArray, name: str, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    return {f"{name}_kernel": _LECUN(named(key, name), shape, jnp.float32), f"{name}_bias": jnp.zeros(shape[-1])}


def _convolve(
    params: dict[str, Any], name: str, x: Float[Array, "B height width channels"], *, stride: int
) -> Float[Array, "B rows columns F"]:
    y = jax.lax.conv_general_dilated(
        x,
        params[f"{name}_kernel"].astype(x.dtype),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + jnp.broadcast_to(params[f"{name}_bias"].astype(y.dtype), y.shape)
