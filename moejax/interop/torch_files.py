"""PyTorch's own files of weights, read and written without running anything that they hold.

Source: `torch.load(weights_only=True)`, which builds tensors and plain containers alone.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moejax.core.errors import SpecError, did_you_mean

SUFFIXES = (".pt", ".pth", ".bin")


def read_torch(path: str | Path, *, which: str = "ema") -> dict[str, np.ndarray]:
    """The tensors of a state dict by name; half-precision ones become float32.

    which: the entry that is taken where the file holds several state dicts ('model', 'ema'). The settings of a training
    script (an `argparse.Namespace`, plain values) may stand beside them.
    Raises SpecError when PyTorch is not installed, the file is missing, broken or holds other objects, or `which` is no
    entry of it.
    """
    torch = import_torch()
    path = Path(path).expanduser()
    if not path.is_file():
        raise SpecError(f"{path} does not exist; give the path of a file of weights ({', '.join(SUFFIXES)}).")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own and the unpickler's errors, and KeyError for broken archives
        raise SpecError(
            f"{path} ({path.stat().st_size} bytes) is truncated, or holds more than weights, which is never run "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). Save its state dict alone."
        ) from error
    state = _choose(found, which, path)
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise SpecError(f"{path}: {wrong[0]!r} (and {len(wrong) - 1} more) is no tensor, so this is no state dict.")
    return {name: _array(value) for name, value in state.items()}


def write_torch(tensors: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Writes a state dict. Raises SpecError when PyTorch is not installed."""
    torch = import_torch()
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}, path)


def import_torch() -> Any:
    """The package `torch`. Raises SpecError naming the extra when it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise SpecError(
            f"files of PyTorch ({', '.join(SUFFIXES)}) need it: pip install 'moejax[torch]', or give a safetensors file."
        ) from error
    return torch


def _choose(found: Any, which: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise SpecError(f"{path} holds a {type(found).__name__}, no state dict.")
    inner = [name for name in ("model", "ema") if isinstance(found.get(name), Mapping)]
    if not inner:
        return found
    if which not in inner:
        raise SpecError(f"{path} has no state dict {which!r}.{did_you_mean(which, inner)}")
    return found[which]


def _array(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
