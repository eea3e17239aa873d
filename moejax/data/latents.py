"""Latents of pictures that `experiments/cache_latents.py` has written, drawn from their Gaussians anew every epoch.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1; caching them as
moments is the habit of the public DiT trainings.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.latent_cache import CachedSplit, Moments, open_split, read_manifest, size_of
from moejax.data.latent_dataset import OpenedLatents

CHECKED = 512  # latents whose statistics are compared
SMALL = 512 * 2**20  # bytes up to which verify='auto' compares checksums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents:
    """folder: the cache; must be given. scale: what the autoencoder multiplied by, which must be what the cache says (None: whatever).

    mean, std: what the latents should have per channel, or one value for all. A standard deviation more than twice or less
    than half of it, or a mean further off than it, is refused: those latents were scaled otherwise.
    verify: compare checksums: 'always', 'never', or 'auto': of caches up to 512 MiB.
    """

    folder: str | None = None
    scale: float | None = 0.18215
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    verify: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        if not self.std or not all(value > 0 for value in self.std):
            raise SpecError(f"data.std={self.std} must be positive.")

    def open(self) -> OpenedLatents:
        """Raises SpecError when the cache is missing, incomplete or changed, or its latents have another scale."""
        if self.folder is None:
            raise SpecError("data.folder must name the latents cache that experiments/cache_latents.py has written.")
        folder = Path(self.folder).expanduser()
        manifest = read_manifest(folder)
        if self.scale is not None and not np.isclose(manifest["scale"], self.scale):
            raise SpecError(
                f"the latents in {folder} were multiplied by {manifest['scale']}, and data.scale={self.scale}; write the "
                "cache with this scale, or set data.scale (and the autoencoder that decodes samples) to the cache's."
            )
        verify = self.verify == "always" or (self.verify == "auto" and size_of(manifest) <= SMALL)
        splits = {name: open_split(folder, manifest, name, verify=verify) for name in manifest["splits"]}
        if "train" not in splits:
            raise SpecError(f"{folder} has no split 'train', but {', '.join(splits) or 'none'}; write the cache again.")
        self._check_statistics(splits["train"], folder)
        height, width, channels = manifest["shape"]
        return OpenedLatents(
            class_names=tuple(manifest["class_names"]),
            splits=splits,
            shape=(height, width, channels),
            scale=manifest["scale"],
        )

    def _check_statistics(self, split: CachedSplit, folder: Path) -> None:
        moments = Moments(split.shape[-1])
        moments.add(split[np.unique(np.linspace(0, len(split) - 1, min(CHECKED, len(split))).astype(int))])
        found = {name: np.array(values) for name, values in moments.statistics().items()}
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, split.shape[-1]):
                raise SpecError(f"data.{name}={values} must have 1 value, or {split.shape[-1]} (one per channel).")
        mean, std = np.array(self.mean), np.array(self.std)
        with np.errstate(divide="ignore"):
            ratio = np.abs(np.log2(found["std"] / std))
        if (ratio > 1).any() or (np.abs(found["mean"] - mean) > std).any():
            raise SpecError(
                f"the latents in {folder} have mean {np.round(found['mean'], 3).tolist()} and standard deviation "
                f"{np.round(found['std'], 3).tolist()} per channel, far from data.mean={list(self.mean)} and "
                f"data.std={list(self.std)}: were they multiplied by the autoencoder's scale? Write the cache again, or "
                "set data.mean and data.std to what they should be."
            )


EXAMPLES = (Latents(folder="latents"),)
