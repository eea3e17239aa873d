"""Weights by diffusers' names against both ways of the published autoencoder, in NumPy."""

import dataclasses
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from moejax.core.errors import SpecError
from moejax.interop import autoencoder_kl
from moejax.models.autoencoder_kl import AutoencoderKL

_path = pathlib.Path(__file__).with_name("official_autoencoder.py")
_spec = importlib.util.spec_from_file_location("official_autoencoder", _path)
official = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(official)

MODEL = AutoencoderKL(
    widths=official.WIDTHS,
    blocks_per_level=official.BLOCKS,
    num_groups=official.GROUPS,
    latent_channels=official.LATENTS,
    scale=official.SCALE,
)


def test_equals_numpy():
    tensors = official.state_dict()
    params = jax.tree.map(jnp.asarray, autoencoder_kl.params_from(tensors, MODEL))
    draw = np.random.default_rng(1)
    images = draw.uniform(-1, 1, (2, 6, 4, 3)).astype(np.float32)
    mean, std = MODEL.encode(params, jnp.asarray(images))
    assert mean.shape == std.shape == (2, 3, 2, 2)
    for i, image in enumerate(images):
        wanted = official.encode(tensors, image.transpose(2, 0, 1))
        for found, value in zip((mean[i], std[i]), wanted, strict=True):
            np.testing.assert_allclose(found, official.SCALE * value.transpose(1, 2, 0), rtol=1e-4, atol=1e-5)
    latents = draw.normal(size=(2, 3, 2, 2)).astype(np.float32)
    pictures = MODEL.decode(params, jnp.asarray(latents))
    for latent, picture in zip(latents, pictures, strict=True):
        wanted = official.decode(tensors, latent.transpose(2, 0, 1) / official.SCALE)
        np.testing.assert_allclose(picture, wanted.transpose(1, 2, 0), rtol=1e-4, atol=1e-4)


def test_every_tensor_is_used_and_comes_back(tmp_path):
    tensors = official.state_dict(2)
    save_file(tensors, tmp_path / "weights.safetensors")
    params = autoencoder_kl.load_params(tmp_path / "weights.safetensors", MODEL)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(tensor.size for tensor in tensors.values())
    again = autoencoder_kl.tensors_from(params, MODEL)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_old_names_of_the_attention():
    new = autoencoder_kl.params_from(official.state_dict(3), MODEL)
    old = autoencoder_kl.params_from(official.state_dict(3, old_names=True), MODEL)
    jax.tree.map(np.testing.assert_array_equal, new, old)


def test_the_published_size():
    """Stable Diffusion's autoencoder: 248 tensors of 83,653,863 parameters, pictures eight times as wide as latents."""
    entries = autoencoder_kl.table(AutoencoderKL())
    assert len({entry.name for entry in entries}) == len(entries) == 248
    assert sum(math.prod(entry.shape) for entry in entries) == 83_653_863
    shapes = jax.eval_shape(AutoencoderKL().init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 83_653_863
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    mean, _ = jax.eval_shape(AutoencoderKL().encode, shapes, image)
    assert mean.shape == (1, 32, 32, 4)
    assert jax.eval_shape(AutoencoderKL().decode, shapes, mean).shape == image.shape


def test_all_that_does_not_fit_is_named_at_once():
    tensors = official.state_dict()
    del tensors["quant_conv.bias"]
    tensors["loss.logvar"] = np.zeros(1, np.float32)
    tensors["decoder.conv_out.weight"] = tensors["decoder.conv_out.weight"][:1]
    with pytest.raises(SpecError) as error:
        autoencoder_kl.params_from(tensors, MODEL)
    message = str(error.value)
    assert "missing: quant_conv.bias [4]" in message and "unexpected: loss.logvar [1]" in message
    assert "misshapen: decoder.conv_out.weight is [1, 4, 3, 3], and the autoencoder needs [3, 4, 3, 3]" in message


def test_pictures_and_latents_that_do_not_fit():
    params = MODEL.init(jax.random.key(0))
    with pytest.raises(SpecError, match=r"pictures \[5, 4, 3\] do not fit.*multiples of 2"):
        MODEL.encode(params, jnp.zeros((1, 5, 4, 3)))
    with pytest.raises(SpecError, match="latents have 4 channels; the decoder takes 2"):
        MODEL.decode(params, jnp.zeros((1, 3, 2, 4)))
    with pytest.raises(SpecError, match="num_groups=3 does not divide 4 channels"):
        dataclasses.replace(MODEL, num_groups=3)
