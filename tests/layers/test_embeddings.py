"""Stems against loops over patches, and their shapes on 32x32 pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.embeddings import ConvStem, OverlapStem, PatchStem, build_stem


def picture(size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)


def test_patch_stem_equals_the_loop_over_patches() -> None:
    stem = PatchStem(patch_size=4, channels=3, dim=5)
    params = stem.init(jax.random.key(0)) | {"patch_bias": jnp.arange(5.0)}
    x = picture()
    y = stem.apply(params, jnp.asarray(x))
    kernel = np.asarray(params["patch"].kernel).reshape(4, 4, 3, 5)
    for r in range(2):
        for c in range(2):
            patch = x[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
            expected = np.einsum("bijk,ijkd->bd", patch, kernel) + np.arange(5.0)
            np.testing.assert_allclose(y[:, r, c], expected, rtol=1e-4, atol=1e-5)


def test_overlap_stem_sees_half_a_patch_beyond_each_side() -> None:
    stem = OverlapStem(patch_size=4, channels=1, dim=2)
    params = stem.init(jax.random.key(0))
    x = picture(channels=1)
    y = stem.apply(params, jnp.asarray(x))
    assert y.shape == (2, 2, 2, 2)
    # kernel 7, stride 4, 'SAME' on 8 pixels: total padding (2 - 1) * 4 + 7 - 8 = 3, one before and two after
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))
    kernel = np.asarray(params["patch_kernel"])
    expected = np.einsum("bijk,ijkd->bd", padded[:, 4:11, 0:7], kernel)
    np.testing.assert_allclose(y[:, 1, 0], expected, rtol=1e-4, atol=1e-5)


def test_conv_stem_halves_the_grid_per_layer_and_doubles_the_width() -> None:
    stem = ConvStem(patch_size=4, channels=3, dim=8)
    assert stem.widths == (4, 8)
    params = stem.init(jax.random.key(0))
    assert params["conv_0_kernel"].shape == (3, 3, 3, 4) and params["conv_1_kernel"].shape == (3, 3, 4, 8)
    x = picture()
    y = stem.apply(params, jnp.asarray(x))
    assert y.shape == (2, 2, 2, 8)
    # Token (0, 0) sees the first 7 pixels of a row: output i of a layer sees inputs 2i .. 2i+2 ('SAME' pads after).
    far, near = x.copy(), x.copy()
    far[:, 7:, 7:], near[:, 6, 6] = 9.0, 9.0
    np.testing.assert_allclose(stem.apply(params, jnp.asarray(far))[:, 0, 0], y[:, 0, 0], rtol=1e-5)
    assert not np.allclose(stem.apply(params, jnp.asarray(near))[:, 0, 0], y[:, 0, 0])


def test_misspelt_stem_and_bad_patch() -> None:
    with pytest.raises(SpecError, match="Did you mean 'conv'"):
        build_stem("convs", patch_size=4, channels=3, dim=8)
    with pytest.raises(SpecError, match="patch_size=6 must be a power of two"):
        build_stem("conv", patch_size=6, channels=3, dim=8)
