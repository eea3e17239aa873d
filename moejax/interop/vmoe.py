"""Checkpoints of google-research/vmoe, V-MoE's and Soft MoE's, <-> a VisionTransformer.

Three files hold the same tree: the released sharded one (PREFIX.index with PREFIX.data-00000-of-...), one msgpack file of
Flax, and an npz of names joined by '/'.
Source: google-research/vmoe (Riquelme et al. 2021; Puigcerver et al. 2024): `vmoe/nn/vit_moe.py`, `vmoe/checkpoints/`.
Deviations: read in float32 whatever the file holds. The optimiser's state is left out, and said so. Routers of expert choice
    have V-MoE's names: give model moe.router.name=expert_choice. Nothing tells capacities and group sizes: experts drop
    no token, and each picture is a group, unless the model given says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moejax.core.errors import SpecError
from moejax.core.tree import nest
from moejax.interop.contract import Foreign
from moejax.interop.flax_msgpack import read_msgpack, write_msgpack
from moejax.interop.npz_arrays import read_npz, write_npz
from moejax.interop.vit_files import arrays_from, flat, foreign_from
from moejax.interop.vit_tensors import VMOE
from moejax.interop.vmoe_shards import is_sharded, read_shards, write_shards

FORMAT = "google-research/vmoe, V-MoE and Soft MoE: prefix of a sharded checkpoint, .msgpack or .npz"
OPTIMISER = ("opt_state/", "opt/state/", "optimizer/")


def read(path: str | Path, *, model: Mapping[str, Any] | None = None, prefix: str | None = None) -> Foreign:
    """The model and its parameters.

    model: fields of its config that the tensors do not tell (vit_config.py), or that they shall not decide. prefix: of the
    model's tree among the names, 'params/' for one; None finds the usual ones.
    Raises SpecError for files that are missing, broken or incomplete, and for tensors that make no such model.
    """
    arrays: dict[str, np.ndarray]
    left_out: list[str] = []
    if is_sharded(path):
        arrays, left_out = read_shards(path, lambda name: not name.startswith(OPTIMISER))
    elif Path(path).suffix == ".npz":
        arrays = read_npz(path)
    elif Path(path).expanduser().is_file():
        arrays = flat(read_msgpack(path))
    else:
        raise SpecError(f"neither {path} nor {path}.index exists; give a file, or the prefix of a sharded checkpoint.")
    return foreign_from(arrays, (VMOE,), model=model, prefix=prefix, left_out=left_out)


def write(foreign: Foreign, path: str | Path, *, num_shards: int | str = 1) -> None:
    """Writes {'params': tree}: .npz and .msgpack by the suffix, else a sharded checkpoint of that prefix.

    Raises SpecError for a model that the format cannot hold.
    """
    arrays = {f"params/{name}": array for name, array in arrays_from(foreign, VMOE).items()}
    if Path(path).suffix == ".npz":
        write_npz(arrays, path)
    elif Path(path).suffix == ".msgpack":
        write_msgpack(nest(arrays), path)
    else:
        write_shards(nest(arrays), path, num_shards=_count(num_shards))


def _count(given: int | str) -> int:
    try:
        return int(given)
    except ValueError as error:
        raise SpecError(f"num_shards={given!r} must be a whole number.") from error
