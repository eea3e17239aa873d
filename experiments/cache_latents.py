"""Encodes the pictures of a data set once, and writes their latents for `data.name=latents`.

  python experiments/cache_latents.py --weights diffusion_pytorch_model.safetensors --folder latents/imagenet256 \
      --data.name=imagenet2012 --data.image_size=256
  python experiments/cache_latents.py --weights ... --folder latents/mine --data.name=image_folder --data.folder=pictures \
      --data.image_size=256 --mirrored

The weights are Stable Diffusion's autoencoder (AutoencoderKL) as diffusers saves it, in a local file. Every picture gives
mean and standard deviation of its latent; --mirrored writes training pictures a second time, left and right exchanged.
The folder gets array_record files, labels, and latents.json with statistics, checksums and the scale; training reads it by
--config.data.folder=latents/imagenet256. Exit codes: 0 done, 2 a wrong option, or weights or pictures that do not fit.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flag_errors
import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_dict, config_flags
from tqdm import tqdm

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.data import opening
from moejax.data.latent_cache import CacheWriter
from moejax.interop.autoencoder_kl import load_params
from moejax.models.autoencoder_kl import AutoencoderKL

_WEIGHTS = flags.DEFINE_string("weights", None, "Safetensors file of the autoencoder.")
_FOLDER = flags.DEFINE_string("folder", None, "Folder of the cache; made when it is not there.")
_MIRRORED = flags.DEFINE_boolean("mirrored", False, "Also write every training picture mirrored.")
_DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "Of the stored moments.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Pictures encoded at once.", lower_bound=1)
_DATA = config_flags.DEFINE_config_dict(
    "data",
    ConfigDict(
        {
            "name": config_dict.placeholder(str),
            "folder": config_dict.placeholder(str),
            "image_size": config_dict.placeholder(int),
            "max_examples": config_dict.placeholder(int),
        }
    ),
    "Data set of pictures, as in a config.",
)
_AUTOENCODER = config_flags.DEFINE_config_dict(
    "autoencoder", ConfigDict(dataclasses.asdict(AutoencoderKL())), "Sizes, if not Stable Diffusion's."
)


def cache(
    weights: str | Path,
    folder: str | Path,
    data: Mapping[str, Any],
    autoencoder: Mapping[str, Any],
    *,
    mirrored: bool = False,
    dtype: str = "float16",
    batch_size: int = 16,
) -> Path:
    """Writes the cache of every split of `data` (a data config); the path of its manifest.

    Raises SpecError when weights, pictures or folder do not fit.
    """
    model = build_spec(AutoencoderKL, autoencoder, path="autoencoder")
    params = jax.device_put(load_params(weights, model))
    pictures = opening.build({**data, "batch_size": 1, "eval_batch_size": batch_size, "value_range": "-1_1"})
    image = jax.ShapeDtypeStruct((batch_size, *pictures.info.image_shape), np.float32)
    mean, _ = jax.eval_shape(model.encode, params, image)
    encode = jax.jit(model.encode)
    writer = CacheWriter(
        folder,
        shape=mean.shape[1:],
        class_names=pictures.info.class_names,
        scale=model.scale,
        dtype=dtype,
        about={
            "autoencoder": dict(autoencoder),
            "weights": Path(weights).name,
            "data": dict(data),
            "mirrored": mirrored,
        },
    )
    for split, count in pictures.info.split_sizes.items():
        for flip in (False, True) if mirrored and split == "train" else (False,):
            steps = tqdm(total=count, desc=f"{split}{' mirrored' if flip else ''}", disable=None)
            for batch in pictures.eval_batches(split):
                images = batch["image"][:, :, ::-1] if flip else batch["image"]
                mean, std = (np.asarray(part)[batch["mask"]] for part in encode(params, images))
                writer.add(split, mean, std, batch["label"][batch["mask"]])
                steps.update(int(batch["mask"].sum()))
            steps.close()
    return writer.close()


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    data = {key: value for key, value in _DATA.value.to_dict().items() if value is not None}
    try:
        path = cache(
            str(_WEIGHTS.value),
            str(_FOLDER.value),
            data,
            _AUTOENCODER.value.to_dict(),
            mirrored=_MIRRORED.value,
            dtype=_DTYPE.value,
            batch_size=_BATCH.value,
        )
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["weights", "folder"])
    app.run(main, flags_parser=flag_errors.parse)
