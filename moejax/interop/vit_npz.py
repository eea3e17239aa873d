"""Dense vision transformers of google-research/vision_transformer and of big_vision, npz files <-> a VisionTransformer.

vision_transformer's files (also those of AugReg) count the layers through a block (MultiHeadDotProductAttention_1,
MlpBlock_3) and have a position for the class token; big_vision's lie under 'params/', have none, may pool by attention
(MAPHead_0), and may hold all blocks in one stack ('encoderblock').
Source: google-research/vision_transformer `vit_jax/models_vit.py`, `vit_jax/checkpoint.py`; google-research/big_vision
    `big_vision/models/vit.py` (Dosovitskiy et al. 2021; Zhai et al. 2022; Beyer et al. 2022).
Deviations: read in float32 whatever the file holds. ResNet roots (R50+ViT) are not read. A checkpoint without class token and
    attention pooling is taken to average its tokens; one that reads its first token instead cannot be told from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moejax.core.errors import SpecError, did_you_mean
from moejax.interop.contract import Foreign
from moejax.interop.npz_arrays import read_npz, write_npz
from moejax.interop.vit_files import arrays_from, foreign_from
from moejax.interop.vit_tensors import BIG_VISION, VISION_TRANSFORMER

FORMAT = "dense ViT of big_vision or google-research/vision_transformer: an .npz"
DIALECTS = {"big_vision": BIG_VISION, "vision_transformer": VISION_TRANSFORMER}


def read(path: str | Path, *, model: Mapping[str, Any] | None = None, prefix: str | None = None) -> Foreign:
    """The model and its parameters; the arguments as in vmoe.py.

    Raises SpecError for a file that is missing, broken or holds objects, and for tensors that make no such model.
    """
    return foreign_from(read_npz(path), tuple(DIALECTS.values()), model=model, prefix=prefix)


def write(foreign: Foreign, path: str | Path, *, naming: str = "big_vision", scanned: bool | str = False) -> None:
    """Writes the npz. naming: 'big_vision' (under 'params/') or 'vision_transformer'; scanned: all blocks in one stack.

    Raises SpecError for a model that the format cannot hold, and for another naming.
    """
    if naming not in DIALECTS:
        raise SpecError(f"naming={naming!r} is unknown.{did_you_mean(naming, DIALECTS)}")
    start = "params/" if naming == "big_vision" else ""
    stacked = scanned if isinstance(scanned, bool) else scanned.lower() in ("true", "1", "yes")
    arrays = arrays_from(foreign, DIALECTS[naming], scanned=stacked)
    write_npz({f"{start}{name}": array for name, array in arrays.items()}, path)
