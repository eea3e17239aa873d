"""What a compiled program sends between devices: collectives of its HLO text, bodies of loops as often as they run.

Bytes are those that one device sends, by the algorithms that need least: of an array of S bytes on n devices all-gather,
reduce-scatter (S before it) and all-to-all send S (n - 1) / n, all-reduce twice that, collective-permute S. A ragged
all-to-all is counted as if all its room were filled.
Source: ours; the formulas are those of bandwidth-optimal collectives, Thakur, Rabenseifner and Gropp 2005, section 4.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from moejax.core.errors import SpecError

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32,
        "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}  # fmt: skip
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][a-z\-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of movement. size: bytes of the array as it is largest, on one device. devices: of a group. times: it runs."""

    kind: str
    size: int
    devices: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that one device sends, over all times."""
        if self.kind == "collective-permute":
            return float(self.size * self.times)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.size * (self.devices - 1) / self.devices * self.times


def collectives(hlo: str) -> list[Collective]:
    """Those of a compiled module's text, in the order of the text, callers after what they call.

    Raises SpecError for a text without an entry, and for a loop around a collective whose number of rounds is not known.
    """
    computations = dict(_computations(hlo))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.MULTILINE)
    if entry is None:
        raise SpecError("this is no compiled module: its text has no ENTRY computation.")
    return list(_of(entry[1], computations))


def bytes_by_kind(found: list[Collective]) -> dict[str, float]:
    """Bytes that one device sends, by kind."""
    return {kind: sum(c.sent for c in found if c.kind == kind) for kind in KINDS if any(c.kind == kind for c in found)}


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    name: str | None = None
    lines: list[str] = []
    for line in hlo.splitlines():
        if found := _HEADER.match(line):
            name, lines = found[2], []
        elif line.startswith("}") and name is not None:
            yield name, lines
            name = None
        elif name is not None:
            lines.append(line)


def _of(name: str, computations: dict[str, list[str]]) -> Iterator[Collective]:
    for line in computations.get(name, []):
        if not (found := _OPERATION.match(line)):
            continue
        result, operation, rest = found.groups()
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            yield _collective(kind, result, rest, started=operation != kind)
            continue
        inner = [c for called in _called(rest) for c in _of(called, computations)]
        times = _rounds(rest, computations) if operation == "while" and inner else 1
        yield from (dataclasses.replace(c, times=c.times * times) for c in inner)


def _called(rest: str) -> list[str]:
    branches = [name.strip().lstrip("%") for group in _BRANCHES.findall(rest) for name in group.split(",")]
    return [*_CALLED.findall(rest), *branches]


def _rounds(rest: str, computations: dict[str, list[str]]) -> int:
    """As the compiler says, or else the one whole number that the loop's condition compares with: scans count from 0."""
    if found := _TRIPS.search(rest):
        return int(found[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", rest)
    lines = computations.get(condition[1], []) if condition else []
    limits = [int(n) for line in lines for n in re.findall(r" = [su]32\[\]\S* constant\((\d+)\)", line)]
    if len(limits) != 1:
        raise SpecError("a loop around a collective runs an unknown number of times; its bytes cannot be counted.")
    return limits[0]


def _collective(kind: str, result: str, rest: str, *, started: bool) -> Collective:
    arrays = [_bytes(dtype, shape) for dtype, shape in _ARRAY.findall(result)]
    if started and kind == "all-gather":  # the operands, then the results
        arrays = arrays[len(arrays) // 2 :]
    elif started and kind == "collective-permute":  # operand, result, and what the hardware needs
        arrays = arrays[1:2]
    devices = _group_size(rest)
    size = sum(arrays) * (devices if kind == "reduce-scatter" else 1)
    return Collective(kind, size, devices, 1)


def _group_size(rest: str) -> int:
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return len(set(re.findall(r"\d+", found[1])))
    return 1


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype.startswith("f8") else BITS.get(dtype)
    if bits is None:
        raise SpecError(f"a collective moves numbers of type {dtype!r}, whose size is not known here.")
    return -(-math.prod(int(size) for size in shape.split(",") if size) * bits // 8)
