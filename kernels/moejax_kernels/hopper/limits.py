"""What a block of a Hopper kernel may use, told before it is compiled; tiles per chip as data."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import jax

from moejax_kernels.platforms import target

SHARED_BYTES = 232448  # shared memory that one block may ask for (CUDA C programming guide, compute capability 9.0)
ACCUMULATORS = 128  # float32 sums that one thread keeps beside its addresses; with 192 the assembler spills
WIDEST = 192  # sides of a tile; the backend finds no layout to store 256 columns row by row
BARRIER = 8  # bytes; one per stage
THREADS = 128  # of the one warpgroup that a block has
_TABLE = pathlib.Path(__file__).parent.parent / "grouped_matmul" / "tuned" / "gpu.json"


@dataclasses.dataclass(frozen=True)
class Tiling:
    """rows x depth x columns of one step; stages: steps in flight; band: columns of tiles that run together."""

    rows: int
    depth: int
    columns: int
    stages: int = 3
    band: int = 8

    def told(self) -> tuple[int, ...]:
        """As `tiling=` takes it."""
        return dataclasses.astuple(self)


@functools.cache
def _table() -> dict[str, dict[str, list[list[int]]]]:
    return json.loads(_TABLE.read_text())["chips"]


def tiling_for(op: str, tiling: tuple[int, ...] | None, rows_per_group: int) -> Tiling:
    """The tiling asked for, else that of the chip's table: its last entry for at most that many rows per group.

    Raises ValueError for a tiling that is not 3 to 5 sizes or not of whole matrix instructions.
    """
    if tiling is None:
        kind = next((name for name in _table() if name != "other" and name in target().kind), "other")
        entries = _table()[kind][op]
        sizes = next((entry[1:] for entry in entries if rows_per_group <= entry[0]), entries[-1][1:])
        return Tiling(*sizes)
    if not 3 <= len(tiling) <= 5:
        raise ValueError(f"tiling={tiling}: pallas_gpu takes (rows, depth, columns), then stages and band if wanted.")
    tile = Tiling(*tiling)
    sides = (tile.rows, tile.depth, tile.columns)
    if any(side % 64 or not 64 <= side <= WIDEST for side in sides) or tile.stages < 2 or tile.band < 1:
        raise ValueError(
            f"tiling={tiling}: pallas_gpu takes rows, depth and columns of 64, 128 or {WIDEST} (a matrix instruction has 64 "
            f"rows, a row of shared memory 64 columns) and at least 2 stages; {fitting(op).told()[:4]} is one for {op}."
        )
    return tile


def fitting(op: str) -> Tiling:
    """A tiling that every Hopper chip holds."""
    return Tiling(*_table()["other"][op][-1][1:])


def shared_bytes(streamed: int, stages: int, kept: int) -> int:
    """Shared memory of a block: stages of `streamed` bytes, or the tile that is `kept` after them, whichever is more.

    Buffers begin at multiples of 1 KiB. Source: ours, checked against the compiler's record.
    """
    return max(stages * (-(-streamed // 1024) * 1024), -(-kept // 1024) * 1024) + BARRIER * stages


def check_fits(op: str, tile: Tiling, need: Callable[[Tiling], int], accumulators: int) -> None:
    """Raises ValueError, with the numbers and a tiling that fits, when a block has not enough memory or registers."""
    told = tile.told()[:4]
    if (needed := need(tile)) > SHARED_BYTES:
        smaller = _shrunk(tile, need)
        way = f"tiling={smaller.told()[:4]} fits"
        if need(smaller) > SHARED_BYTES:
            way = "no tiling fits: lower the rank, or take implementation='xla'"
        raise ValueError(
            f"{op}: tiling={told} needs {needed} bytes of shared memory and a block has {SHARED_BYTES}; {way}."
        )
    if accumulators > ACCUMULATORS * THREADS:
        raise ValueError(
            f"{op}: tiling={told} keeps {accumulators // THREADS} sums per thread and at most {ACCUMULATORS} stay in "
            f"registers; tiling={fitting(op).told()[:4]} fits."
        )


def _shrunk(tile: Tiling, need: Callable[[Tiling], int]) -> Tiling:
    while need(tile) > SHARED_BYTES and tile.stages > 2:
        tile = dataclasses.replace(tile, stages=tile.stages - 1)
    for side in ("depth", "columns", "rows"):
        while need(tile) > SHARED_BYTES and getattr(tile, side) > 64:
            tile = dataclasses.replace(tile, **{side: getattr(tile, side) - 64})
    return tile


def rows_per_group(x: jax.Array, groups: int) -> int:
    """Rows of an even share, what tables of tiles go by."""
    return -(-x.shape[0] // max(groups, 1))
