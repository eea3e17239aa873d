"""Our own parameters in one safetensors file, which any framework reads; its metadata tell the model, so that we read it back.

Metadata (strings, as the format has them): 'moejax' the version of this layout, 'model' the config, 'structure' the leaves
(linear/structure.py, so that compressed parameters come back as they were), 'step', 'notes'. Tensors: 'params/' and 'state/'
before the names of the leaves.
Source: ours, over Hugging Face's safetensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moejax.core.errors import SpecError
from moejax.core.tree import flatten
from moejax.interop.contract import Foreign, overridden, plain
from moejax.interop.named_tensors import fill, read_safetensors
from moejax.linear.structure import abstract, describe

FORMAT = "our own parameters and model in one .safetensors"
LAYOUT = "1"


def read(path: str | Path, *, model: Mapping[str, Any] | None = None) -> Foreign:
    """What `write` wrote, exactly; model: fields of the config to change, such as dtype or capacities.

    Raises SpecError for a file that is missing, broken, of another writer, or whose tensors are not those that it tells.
    """
    tensors = read_safetensors(path)
    try:
        with safe_open(Path(path).expanduser(), "np") as file:
            told = file.metadata() or {}
        if told.get("moejax") != LAYOUT:
            raise SpecError(
                f"{path} is no export of moejax in layout {LAYOUT} (its metadata: {sorted(told)}); another tool's file is read by its "
                "own format."
            )
        config, structure = json.loads(told["model"]), json.loads(told["structure"])
        notes, step = tuple(json.loads(told["notes"])), int(told["step"])
    except (SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"the metadata of {path} are broken ({type(error).__name__}: {error}).") from error
    params, state = (
        fill(
            abstract(structure[part]),
            {n.removeprefix(f"{part}/"): t for n, t in tensors.items() if n.startswith(f"{part}/")},
        )
        for part in ("params", "state")
    )
    return Foreign(model=overridden(config, model), params=params, state=state, notes=notes, step=step)


def write(foreign: Foreign, path: str | Path) -> None:
    """Writes the file; it appears only when it is complete."""
    tree = {"params": foreign.params, "state": foreign.state}
    tensors = {name: np.array(leaf, order="C") for name, leaf in flatten(tree).items()}
    told = {
        "moejax": LAYOUT,
        "model": json.dumps(plain(foreign.model)),
        "structure": json.dumps(describe(jax.tree.map(np.asarray, tree))),
        "step": str(foreign.step),
        "notes": json.dumps(foreign.notes),
    }
    path = Path(path)
    partial = path.with_name(f".tmp.{path.name}")
    save_file(tensors, partial, metadata=told)
    partial.replace(path)
