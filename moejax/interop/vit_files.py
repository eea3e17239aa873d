"""From the arrays of a file to a vision transformer, and back: what the formats of Flax's vision transformers share.

Source: the names as in vit_tensors.py; scanned blocks (one stacked 'encoderblock') as big_vision writes them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.interop.contract import Foreign, plain
from moejax.interop.vit_config import deduce
from moejax.interop.vit_tensors import Dialect, params_from, tensors_from

PREFIXES = ("", "params/", "params/params/", "target/", "opt/target/", "params/img/")


def foreign_from(
    arrays: Mapping[str, np.ndarray],
    dialects: Sequence[Dialect],
    *,
    model: Mapping[str, Any] | None,
    prefix: str | None,
    left_out: Sequence[str] = (),
) -> Foreign:
    """The model of these arrays ('params/head/kernel' ...) and its parameters.

    prefix: where the model's tree lies among the names; None: the first of PREFIXES that has one. All other arrays, and
    `left_out`, are told in the notes. Raises SpecError when no model is found, or it does not fit what it says of itself.
    """
    names, dialect, prefix = _tree(arrays, dialects, prefix)
    others = [name for name in arrays if not name.startswith(prefix)] + list(left_out)
    notes = _others(others)
    named, more = _usual_positions(names, dialect)
    given = dict(model or {})
    if "head/bias" not in named and "num_classes" in given:
        width = named["pre_logits/bias" if "pre_logits/bias" in named else "embedding/bias"].shape[0]
        named["head/kernel"] = np.zeros((width, given["num_classes"]), np.float32)
        named["head/bias"] = np.zeros(given["num_classes"], np.float32)
        more.append(f"the checkpoint has no head: a new one of {given['num_classes']} classes starts at zero")
    config, assumed = deduce(named, dialect, given)
    config = plain(config)
    spec = build_method("models", config, path="model")
    params, state = params_from(named, spec, dialect)
    step = arrays.get("step")
    number = int(step) if step is not None and np.ndim(step) == 0 else 0
    return Foreign(model=config, params=params, state=state, notes=(*notes, *more, *assumed), step=number)


def arrays_from(foreign: Foreign, dialect: Dialect, *, scanned: bool = False) -> dict[str, np.ndarray]:
    """The arrays of `foreign` by the dialect's names; scanned: all blocks in one stack. Raises SpecError for another model."""
    tensors = tensors_from(foreign.params, foreign.spec, dialect)
    if not scanned:
        return tensors
    head, found = f"{dialect.encoder}/encoderblock_", {}
    for name, tensor in tensors.items():
        number, _, rest = name.removeprefix(head).partition("/")
        if not name.startswith(head):
            found[name] = tensor
        elif number == "0":
            found[f"{dialect.encoder}/encoderblock/{rest}"] = np.stack(
                [tensors[f"{head}{i}/{rest}"] for i in range(foreign.spec.depth)]
            )
    return found


def flat(tree: Any, path: str = "") -> dict[str, np.ndarray]:
    """'a/b' -> array, of nested dicts and lists; what is no array or number is left out."""
    if isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {n: a for key, child in items for n, a in flat(child, f"{path}/{key}" if path else str(key)).items()}
    return {path: np.asarray(tree)} if isinstance(tree, np.ndarray | np.generic | int | float) else {}


def _tree(
    arrays: Mapping[str, np.ndarray], dialects: Sequence[Dialect], prefix: str | None
) -> tuple[dict[str, np.ndarray], Dialect, str]:
    for start in PREFIXES if prefix is None else (prefix,):
        own = _unstacked({n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}, dialects)
        for dialect in dialects:
            if dialect.first_query in own:
                return own, dialect, start
    query = "/query/kernel"
    found = sorted({name.partition("/encoderblock")[0] for name in arrays if name.endswith(query)})
    hint = f" Blocks were found under {found}; give the prefix before the encoder." if found else ""
    raise SpecError(
        f"no vision transformer is under {prefix or list(PREFIXES)!r}: none of {[d.first_query for d in dialects]} is among "
        f"{len(arrays)} arrays ({', '.join(sorted(arrays)[:4])} ...).{hint}"
    )


def _unstacked(arrays: dict[str, np.ndarray], dialects: Sequence[Dialect]) -> dict[str, np.ndarray]:
    """Scanned blocks as single ones."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        head, middle, rest = name.partition("/encoderblock/")
        if middle and head in {dialect.encoder for dialect in dialects}:
            found |= {f"{head}/encoderblock_{i}/{rest}": layer for i, layer in enumerate(array)}
        else:
            found[name] = array
    return found


def _usual_positions(tensors: dict[str, np.ndarray], dialect: Dialect) -> tuple[dict[str, np.ndarray], list[str]]:
    """The table of positions under the dialect's own name, wherever its history had it."""
    places = ("pos_embedding", f"{dialect.encoder}/pos_embedding", f"{dialect.encoder}/posembed_input/pos_embedding")
    for place in places:
        if place in tensors and place != dialect.positions:
            moved = {dialect.positions if name == place else name: tensor for name, tensor in tensors.items()}
            return moved, [f"the table of positions was called {place}"]
    return dict(tensors), []


def _others(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    counts = Counter(name.partition("/")[0] for name in names)
    told = ", ".join(f"{folder}: {count}" for folder, count in sorted(counts.items()))
    return [
        f"{len(names)} arrays beside the model were left out, the optimiser's among them where there is one ({told})"
    ]
