"""Tables of a foreign checkpoint's tensors: each name with its shape and the leaf of ours that it becomes, both ways.

Reading and writing follow the same table, so that what is read is what is written.
Source: ours.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from moejax.core.errors import SpecError
from moejax.core.tree import map_with_names

Layout = Literal["as_is", "turned", "convolution", "patches"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint.

    name, shape: theirs. places: our leaves; several are its equal parts along the first axis. layout of each part:
    'as_is'; 'turned', [outputs inputs] to [inputs outputs]; 'convolution', [outputs inputs k k] to [k k inputs outputs];
    'patches', such a kernel as one matrix [k k inputs, outputs]. expert: its index along the leaf's first axis, or None.
    """

    name: str
    shape: tuple[int, ...]
    places: tuple[str, ...]
    layout: Layout = "as_is"
    expert: int | None = None


def check(tensors: Mapping[str, Any], entries: Sequence[Entry], *, what: str) -> None:
    """Raises SpecError that names every tensor that is missing, of another shape, or without a place, all at once."""
    wanted = {entry.name: entry.shape for entry in entries}
    lines = [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in tensors]
    lines += [f"unexpected: {name} {list(tensors[name].shape)}" for name in tensors if name not in wanted]
    lines += [
        f"misshapen: {name} is {list(tensors[name].shape)}, and {what} needs {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if lines:
        raise SpecError(f"the tensors do not fit {what} ({len(lines)} of {len(wanted)}):\n  " + "\n  ".join(lines))


def to_leaves(tensors: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Our leaves by name, float32, of tensors that `check` has passed."""
    leaves: dict[str, np.ndarray] = {}
    banks: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        tensor = np.asarray(tensors[entry.name]).astype(np.float32)
        for place, part in zip(entry.places, np.split(tensor, len(entry.places)), strict=True):
            ours = _ours(part, entry.layout)
            if entry.expert is None:
                leaves[place] = ours
            else:
                banks.setdefault(place, {})[entry.expert] = ours
    return leaves | {place: np.stack([bank[i] for i in sorted(bank)]) for place, bank in banks.items()}


def to_tensors(leaves: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """The checkpoint's tensors by name, of our leaves. Raises SpecError naming every leaf that is not there."""
    absent = sorted({place for entry in entries for place in entry.places} - leaves.keys())
    if absent:
        raise SpecError(f"these leaves are not in the parameters: {', '.join(absent)}.")
    tensors = {}
    for entry in entries:
        whole = [np.asarray(leaves[place]) for place in entry.places]
        parts = whole if entry.expert is None else [bank[entry.expert] for bank in whole]
        shape = (entry.shape[0] // len(parts), *entry.shape[1:])
        tensors[entry.name] = np.ascontiguousarray(np.concatenate([_theirs(p, entry.layout, shape) for p in parts]))
    return tensors


def fill(template: Any, leaves: Mapping[str, np.ndarray]) -> Any:
    """The tree `template` (shapes, as `jax.eval_shape` gives them) with the leaves of these names.

    Raises SpecError naming every leaf that is not there, is left over, or has another shape.
    """
    lines, used = [], set()

    def pick(name: str, shape: Any) -> Any:
        used.add(name)
        if name not in leaves:
            lines.append(f"{name} {list(shape.shape)} is in no tensor")
        elif leaves[name].shape != shape.shape:
            lines.append(f"{name} must be {list(shape.shape)}, found {list(leaves[name].shape)}")
        return leaves.get(name)

    tree = map_with_names(pick, template)
    lines += [f"{name} has no place in the model" for name in leaves if name not in used]
    if lines:
        raise SpecError("the tensors do not make this model:\n  " + "\n  ".join(lines))
    return tree


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a local safetensors file by name. Raises SpecError when it is missing or no such file."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise SpecError(f"{path} does not exist; give the path of a safetensors file.")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise SpecError(
            f"{path} ({path.stat().st_size} bytes) is truncated or no safetensors file ({error})."
        ) from error


def _ours(part: np.ndarray, layout: Layout) -> np.ndarray:
    if layout == "as_is":
        return part
    if layout == "turned":
        return np.ascontiguousarray(part.T)
    kernel = np.ascontiguousarray(part.transpose(2, 3, 1, 0))
    return kernel if layout == "convolution" else kernel.reshape(-1, part.shape[0])


def _theirs(leaf: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    if layout == "as_is":
        return leaf
    if layout == "turned":
        return leaf.T
    outputs, inputs, *sides = shape
    return leaf.reshape(*sides, inputs, outputs).transpose(3, 2, 0, 1)
