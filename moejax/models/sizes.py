"""Published sizes as data, and the VisionTransformer fields that they mean."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Size:
    """Width, depth, heads and the MLP's hidden width."""

    dim: int
    depth: int
    num_heads: int
    mlp_dim: int


VMOE: Mapping[str, Size] = types.MappingProxyType(
    {
        "S": Size(512, 8, 8, 2048),
        "B": Size(768, 12, 12, 3072),
        "L": Size(1024, 24, 16, 4096),
        "H": Size(1280, 32, 16, 5120),
        "15B": Size(1408, 48, 16, 6400),
    }
)
"""V-MoE's family. Its S (8 layers, 512 wide) is neither ViT-S nor Soft MoE's S (12 layers, 384 wide).

Source: Riquelme et al. 2021, table of architectures (appendix B)."""

SOFT_MOE: Mapping[str, Size] = types.MappingProxyType(
    {
        "Ti": Size(192, 12, 3, 768),
        "S": Size(384, 12, 6, 1536),
        "B": Size(768, 12, 12, 3072),
        "L": Size(1024, 24, 16, 4096),
        "H": Size(1280, 32, 16, 5120),
    }
)
"""Soft MoE's family, the ViT sizes of Dosovitskiy et al. 2021 and Touvron et al. 2021.

Source: Puigcerver et al. 2024, section 3.2 and appendix."""

SOFT_MOE_LAYERS: Mapping[str, str] = types.MappingProxyType(
    {"Ti": "final6", "S": "final6", "B": "final6", "L": "final12", "H": "final16"}
)
"""Where Soft MoE's MoE layers stand: the second half of the blocks."""


def fields(family: Mapping[str, Size], size: str, *, image_size: int = 224) -> dict[str, Any]:
    """VisionTransformer fields of a size written 'B/16' (name / patch size).

    Raises SpecError when the name is not in the family or the patch size is missing.
    """
    name, slash, patch = size.partition("/")
    if name not in family:
        raise SpecError(f"size={size!r}: {name!r} is no published size of this family.{did_you_mean(name, family)}")
    if not slash or not patch.isdigit() or patch == "0":
        raise SpecError(f"size={size!r} must name the patch size too, such as '{name}/16'.")
    return dataclasses.asdict(family[name]) | {"patch_size": int(patch), "image_size": image_size}
