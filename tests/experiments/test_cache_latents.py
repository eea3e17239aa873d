"""Pictures to a cache of latents and into training batches, with a tiny autoencoder of random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from moejax.data.opening import build
from moejax.interop.autoencoder_kl import tensors_from
from moejax.models.autoencoder_kl import AutoencoderKL
from tests.command_lines import typed

MODEL = AutoencoderKL(widths=(4, 4, 8), blocks_per_level=1, num_groups=2, latent_channels=2, scale=0.5)


def run(root, *arguments):
    return typed(root, "cache_latents.py", *arguments)


@pytest.mark.slow
def test_pictures_become_latents(root, tmp_path):
    params = MODEL.init(jax.random.key(0))
    save_file(tensors_from(params, MODEL), tmp_path / "weights.safetensors")
    sizes = ["--autoencoder.widths=(4,4,8)", "--autoencoder.blocks_per_level=1", "--autoencoder.num_groups=2"]
    done = run(
        root,
        *("--weights", str(tmp_path / "weights.safetensors"), "--folder", str(tmp_path / "cache")),
        *("--data.name=digits", "--data.max_examples=20", "--mirrored", "--dtype=float32", "--batch_size=16"),
        *(*sizes, "--autoencoder.latent_channels=2", "--autoencoder.scale=0.5"),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "cache" / "latents.json").read_text())
    assert manifest["scale"] == 0.5 and manifest["shape"] == [8, 8, 2] and manifest["about"]["data"]["name"] == "digits"
    spread = tuple(manifest["statistics"]["std"])
    config = {"name": "latents", "folder": str(tmp_path / "cache"), "scale": 0.5, "std": spread, "batch_size": 8}
    data = build({**config, "mean": tuple(manifest["statistics"]["mean"])})
    assert data.info.split_sizes == {"train": 40, "validation": 20, "test": 20} and data.info.num_classes == 10
    digits = build({"name": "digits", "max_examples": 20, "batch_size": 1, "eval_batch_size": 20})
    (batch,) = digits.eval_batches("train")
    found = data.split("train")[np.arange(40)]
    for images, rows in ((batch["image"], slice(0, 20)), (batch["image"][:, :, ::-1], slice(20, 40))):
        mean, std = MODEL.encode(params, jnp.asarray(images))
        np.testing.assert_allclose(found[rows], np.stack([mean, std], 1), atol=1e-4)
    np.testing.assert_array_equal(data.split("train").labels, np.tile(batch["label"], 2))


@pytest.mark.slow
def test_a_wrong_file_is_one_line(root, tmp_path):
    done = run(root, "--weights", str(tmp_path / "none"), "--folder", str(tmp_path / "cache"), "--data.name=digits")
    assert done.returncode == 2 and done.stderr.strip().endswith("give the path of a safetensors file.")
    assert "Traceback" not in done.stderr and not (tmp_path / "cache").exists()
