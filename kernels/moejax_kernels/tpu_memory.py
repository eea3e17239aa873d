"""What a TPU kernel needs of a core's vector memory, told before it is compiled."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from moejax_kernels.platforms import Target

MIB = 1 << 20
LANES = 128
RESERVED_BYTES = 2 * MIB  # for the compiler's own scratch and semaphores
_TABLE = pathlib.Path(__file__).parent / "grouped_matmul" / "tuned" / "tpu.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One generation. vmem_bytes: vector memory of one core. cores: cores that share a kernel's first grid axis."""

    name: str
    vmem_bytes: int
    cores: int
    tiles: dict[str, dict[str, list[int]]]
    bodies: dict[str, dict[str, list[int]]]

    @property
    def limit_bytes(self) -> int:
        """What a kernel may ask for."""
        return self.vmem_bytes - RESERVED_BYTES

    def largest(self, op: str, dtype: Any) -> list[int]:
        """Rows, depth and columns of the tiles of an operation in a dtype, where the shapes are as large."""
        return self.tiles[op][_width(dtype)]

    def body(self, op: str, dtype: Any) -> tuple[int, int]:
        """Rows and depth of one product within a tile."""
        rows, depth = self.bodies[op][_width(dtype)]
        return rows, depth


def _width(dtype: Any) -> str:
    return "bfloat16" if jnp.dtype(dtype).itemsize <= 2 else "float32"


@functools.cache
def chips() -> dict[str, Chip]:
    """The generations of tuned/tpu.json by name, in the order of the file."""
    table = json.loads(_TABLE.read_text())["chips"]
    return {
        name: Chip(
            name=name, vmem_bytes=row["vmem_mib"] * MIB, cores=row["cores"], tiles=row["tiles"], bodies=row["bodies"]
        )
        for name, row in table.items()
    }


def chip(target: Target) -> Chip:
    """The generation of a target by its device kind; v5e for what is not a TPU (interpreted kernels) or is not listed."""
    kinds = _generations()
    return chips()[kinds.get(target.kind, "v5e")]


@functools.cache
def _generations() -> dict[str, str]:
    """Device kind as jax names it -> generation."""
    table = json.loads(_TABLE.read_text())["chips"]
    return {kind: name for name, row in table.items() for kind in row["device_kinds"]}


def sublanes(dtype: Any) -> int:
    """Rows of one register tile of that dtype: 8 of 32 bits, 16 of 16 bits, 32 of 8 bits."""
    return 32 // jnp.dtype(dtype).itemsize


def block_bytes(shape: Sequence[int], dtype: Any) -> int:
    """Bytes of a block in vector memory, its last two axes rounded up to register tiles."""
    *outer, rows, columns = (1, *shape)
    size = round_up(rows, sublanes(dtype)) * round_up(columns, LANES)
    for axis in outer:
        size *= axis
    return size * jnp.dtype(dtype).itemsize


def kernel_bytes(streamed: Iterable[tuple[Sequence[int], Any]], kept: Iterable[tuple[Sequence[int], Any]]) -> int:
    """Bytes of a pipelined kernel: blocks that stream to or from memory twice (one moves while one is used), the rest once.

    Source: ours; checked against what the compiler allocates.
    """
    return 2 * sum(block_bytes(*block) for block in streamed) + sum(block_bytes(*block) for block in kept)


def request(needed: int) -> int:
    """The limit to compile with: what the model says, and room for the compiler's own scratch."""
    return max(needed + RESERVED_BYTES, 16 * MIB)


def round_up(size: int, multiple: int) -> int:
    """The next multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def tile_of(size: int, largest: int) -> int:
    """A legal tile of a lane axis: the whole axis when it fits, else a multiple of 128, one that divides it if a large one does.

    A tile that divides needs no mask of a tail; one below half of `largest` would cost more than the mask.
    """
    if size <= largest:
        return size
    largest -= largest % LANES
    dividing = (t for t in range(largest, largest // 2 - 1, -LANES) if t and size % t == 0)
    return next(dividing, largest)


def check_fits(what: str, tiling: tuple[int, ...], need: Callable[[tuple[int, ...]], int], held: Chip) -> int:
    """The bytes that a tiling needs. Raises ValueError, with a tiling that fits, when the chip has fewer."""
    needed = need(tiling)
    if needed <= held.limit_bytes:
        return needed
    limits = ", ".join(f"{c.name} {c.limit_bytes // MIB}" for c in chips().values())
    raise ValueError(
        f"{what}: tiling={tiling} needs {needed / MIB:.1f} MiB of vector memory ({needed} bytes), {held.name} gives a kernel "
        f"{held.limit_bytes / MIB:.0f} MiB (MiB by generation: {limits}); tiling={shrunk(tiling, need, held)} fits."
    )


def shrunk(tiling: tuple[int, ...], need: Callable[[tuple[int, ...]], int], held: Chip) -> tuple[int, ...]:
    """The tiling with sides halved, to multiples of 128 and each time the one that saves most, until it fits the chip."""
    while need(tiling) > held.limit_bytes and max(tiling) > LANES:
        smaller = (
            (*tiling[:side], max(LANES, round_up(size // 2, LANES)), *tiling[side + 1 :])
            for side, size in enumerate(tiling)
            if size > LANES
        )
        tiling = min(smaller, key=need)
    return tiling
