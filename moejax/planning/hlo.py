"""A compiled module's text as a list of operations, each with how often it runs: bodies of loops as often as they go round.

The compiler's own cost analysis counts the body of a loop once, and so a model whose layers are scanned as one layer.
Source: ours.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

from moejax.core.errors import SpecError

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32,
        "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z\-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """An array's element type and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Raises SpecError for an element type whose size is not known here."""
        bits = 8 if self.dtype.startswith("f8") else BITS.get(self.dtype)
        if bits is None:
            raise SpecError(f"the module has numbers of type {self.dtype!r}, whose size is not known here.")
        return -(-math.prod(self.shape) * bits // 8)


@dataclasses.dataclass(frozen=True)
class Operation:
    """kind: its opcode. result: arrays that it gives. operands: arrays that it takes. rest: operands and attributes as text.

    times: how often it runs. bounded: False in a loop that goes round as often as the data say; such a loop counts once.
    """

    kind: str
    result: tuple[Array, ...]
    operands: tuple[Array, ...]
    rest: str
    times: int = 1
    bounded: bool = True


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    result: str
    kind: str
    rest: str


def operations(hlo: str, wanted: Callable[[str, str], bool]) -> list[Operation]:
    """The operations for which `wanted(kind, rest)` holds, in the order of the text, callers after what they call.

    Of a conditional every branch counts. Raises SpecError for a text without an entry.
    """
    computations = dict(_computations(hlo))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.MULTILINE)
    if entry is None:
        raise SpecError("this is no compiled module: its text has no ENTRY computation.")
    return list(_of(entry[1], computations, wanted))


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays that a type names, such as '(f32[2,3]{1,0}, s32[])'."""
    return tuple(Array(dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in _ARRAY.findall(text))


def _computations(hlo: str) -> Iterator[tuple[str, list[_Line]]]:
    name: str | None = None
    lines: list[_Line] = []
    for line in hlo.splitlines():
        if found := _HEADER.match(line):
            name, lines = found[2], []
        elif line.startswith("}") and name is not None:
            yield name, lines
            name = None
        elif name is not None and (found := _OPERATION.match(line)):
            lines.append(_Line(*found.groups()))


def _of(name: str, computations: dict[str, list[_Line]], wanted: Callable[[str, str], bool]) -> Iterator[Operation]:
    lines = computations.get(name, [])
    types = {line.name: line.result for line in lines}
    for line in lines:
        if wanted(line.kind, line.rest):
            given = _operands(line.rest)
            operands = tuple(array for operand in given for array in arrays(types.get(operand, "")))
            yield Operation(line.kind, arrays(line.result), operands, line.rest)
            continue
        if line.kind.endswith(("-done", "-update")):  # the end of what its beginning calls
            continue
        inner = [found for called in _called(line.rest) for found in _of(called, computations, wanted)]
        times = _rounds(line.rest, computations) if line.kind == "while" and inner else 1
        for found in inner:
            yield dataclasses.replace(
                found, times=found.times * (times or 1), bounded=found.bounded and times is not None
            )


def _operands(rest: str) -> list[str]:
    """Names between the parentheses that the opcode opened."""
    depth, end = 1, len(rest)
    for i, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            end = i
            break
    return re.findall(r"%([\w.\-]+)", rest[:end])


def _called(rest: str) -> list[str]:
    branches = [name.strip().lstrip("%") for group in _BRANCHES.findall(rest) for name in group.split(",")]
    return [*_CALLED.findall(rest), *branches]


def _rounds(rest: str, computations: dict[str, list[_Line]]) -> int | None:
    """As the compiler says, or else the one whole number that the loop's condition compares with: scans count from 0.

    None where there is no such number.
    """
    if found := _TRIPS.search(rest):
        return int(found[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", rest)
    lines = computations.get(condition[1], []) if condition else []
    scalars = [line for line in lines if line.kind == "constant" and re.match(r"[su]32\[\]", line.result)]
    limits = [int(found[1]) for line in scalars if (found := re.match(r"(\d+)\)", line.rest))]
    return limits[0] if len(limits) == 1 else None
