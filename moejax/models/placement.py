"""Which layers are MoE: the rules that papers name, and explicit indices."""

import re

from moejax.core.errors import SpecError


def place(rule: str | tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Indices of the MoE layers, ascending.

    'none'; 'all'; 'everyN': layers N-1, 2N-1, ...; 'lastN': the last N of the odd layers (V-MoE's "Last N": with 8 layers,
    'last2' is 5 and 7); 'finalN': the last N of all layers (Soft MoE); or the indices themselves (negative: from the end).
    Raises SpecError for another rule, an index out of range or twice, or more layers than there are.
    Source: Riquelme et al. 2021, section 3.2 and appendix; Puigcerver et al. 2024, section 3.1.
    """
    if isinstance(rule, tuple):
        return _indices(rule, depth)
    match = re.fullmatch(r"(every|last|final)([1-9]\d*)", rule)
    if rule in ("none", "all"):
        return tuple(range(depth)) if rule == "all" else ()
    if not match:
        raise SpecError(
            f"moe_layers={rule!r} is no rule. Write 'none', 'all', 'everyN' (layers N-1, 2N-1, ...), 'lastN' (the last N odd "
            "layers), 'finalN' (the last N layers), or a tuple of indices."
        )
    name, n = match[1], int(match[2])
    candidates = {"every": range(n - 1, depth, n), "last": range(1, depth, 2), "final": range(depth)}[name]
    needed = 1 if name == "every" else n
    if len(candidates) < needed:
        limit = depth if name == "every" else len(candidates)
        raise SpecError(f"moe_layers={rule!r} does not fit depth={depth}; N may be at most {limit}.")
    return tuple(candidates) if name == "every" else tuple(candidates[-n:])


def _indices(rule: tuple[int, ...], depth: int) -> tuple[int, ...]:
    for index in rule:
        if not -depth <= index < depth:
            raise SpecError(f"moe_layers={rule} names layer {index}; depth={depth} has layers 0 to {depth - 1}.")
    layers = sorted(index % depth for index in rule)
    if len(set(layers)) < len(layers):
        raise SpecError(f"moe_layers={rule} names a layer twice (depth={depth}).")
    return tuple(layers)
