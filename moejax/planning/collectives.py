"""What a compiled program sends between devices: collectives of its HLO text, bodies of loops as often as they run.

Bytes are those that one device sends, by the algorithms that need least: of an array of S bytes on n devices all-gather,
reduce-scatter (S before it) and all-to-all send S (n - 1) / n, all-reduce twice that, collective-permute S. A ragged
all-to-all moves rows into room for more of them, or out of it: S is the smaller side, which is full, and an even load is meant.
Source: ours; the formulas are those of bandwidth-optimal collectives, Thakur, Rabenseifner and Gropp 2005, section 4.
"""

import dataclasses
import math
import re

from moejax.core.errors import SpecError
from moejax.planning.hlo import Operation, operations

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")


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

    Raises SpecError as `operations`, for one in a loop whose number of rounds is not known, and where the devices of a group
    are not to be read.
    """
    found = operations(hlo, lambda kind, _: kind.removesuffix("-start") in KINDS)
    if any(not operation.bounded for operation in found):
        raise SpecError("a loop around a collective runs an unknown number of times; its bytes cannot be counted.")
    partitions = re.search(r"^HloModule .*\bnum_partitions=(\d+)", hlo, re.MULTILINE)
    return [_collective(operation, int(partitions[1]) if partitions else None) for operation in found]


def bytes_by_kind(found: list[Collective]) -> dict[str, float]:
    """Bytes that one device sends, by kind."""
    return {kind: sum(c.sent for c in found if c.kind == kind) for kind in KINDS if any(c.kind == kind for c in found)}


def _collective(operation: Operation, everybody: int | None) -> Collective:
    kind = operation.kind.removesuffix("-start")
    sizes = [array.bytes for array in operation.result]
    if operation.kind != kind and kind != "all-reduce":  # the operands, the results, and what the hardware needs
        operands = len(operation.operands) or (1 if kind == "collective-permute" else len(sizes) // 2)
        sizes = sizes[operands : 2 * operands]
    if kind == "ragged-all-to-all":  # rows, the room that they go to, and four lists of numbers
        sizes = [min(operation.operands[0].bytes, operation.operands[1].bytes)]
    devices = _group_size(operation.rest, everybody)
    size = sum(sizes) * (devices if kind == "reduce-scatter" else 1)
    return Collective(kind, size, devices, operation.times)


def _group_size(rest: str, everybody: int | None) -> int:
    """Of groups as lists of lists, as a list of numbers reshaped, as axes of a mesh, or as nothing at all: everybody."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? ?\{([^}]*)\}", rest):
        return _over_axes(found[1], found[2])
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return len(set(re.findall(r"\d+", found[1])))
    if re.search(r"replica_groups=\{\}", rest) and everybody is not None:
        return everybody
    found = re.search(r"replica_groups=.{0,80}", rest)
    raise SpecError(f"a collective's devices cannot be read: {found[0] if found else 'it names no groups'}.")


def _over_axes(mesh: str, axes: str) -> int:
    """Devices along `axes` "'a','b':(1)2" of a mesh "'a'=8,'b'=4"; (m)k is a part of an axis, of k devices."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes)
    return math.prod(int(part) if part else sizes[name] for name, part in named)
