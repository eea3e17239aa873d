"""The layers of Inception-v3 as the Fréchet Inception distance uses it, as data: every convolution and every branch.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture"; the names and the three differences of the FID network
    (means without the padding, a maximum in the last block, 1008 classes) are those of the `pt_inception-2015-12-05`
    weights of pytorch-fid.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

NUM_CLASSES = 1008  # of the classifier, which features do not need
FEATURE_DIM = 2048
MEAN, MAX, MAX_HALVE = "mean", "max", "max_halve"  # 3 x 3: mean without padding; maximum; maximum with stride 2


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution without bias, a batch norm and a ReLU. same: padded so that stride 1 keeps the size."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: int = 1
    same: bool = True


@dataclasses.dataclass(frozen=True)
class Branches:
    """Chains that read one input; their outputs are joined along the channels, in order."""

    chains: tuple[tuple[Any, ...], ...]  # of Unit, Branches and the names of pools


def units(chain: tuple[Any, ...]) -> Iterator[Unit]:
    """Every unit of a chain, in order."""
    for step in chain:
        if isinstance(step, Unit):
            yield step
        elif isinstance(step, Branches):
            for inner in step.chains:
                yield from units(inner)


class _Block:
    """Writes the units of one mixed block: names get the block's prefix, widths follow from one unit to the next."""

    def __init__(self, name: str, inputs: int):
        self.name, self.inputs = name, inputs

    def chain(self, *steps: Any, inputs: int | None = None) -> tuple[Any, ...]:
        """steps: pools, or (name, width, kernel[, stride]) with the kernel as one side or as (rows, columns)."""
        width, built = inputs or self.inputs, []
        for step in steps:
            if isinstance(step, tuple):
                name, outputs, kernel, *stride = step
                sides = (kernel, kernel) if isinstance(kernel, int) else kernel
                built.append(
                    Unit(f"{self.name}.{name}", width, outputs, sides, stride[0] if stride else 1, same=not stride)
                )
                width = outputs
            else:
                built.append(step)
        return tuple(built)

    def fork(self, stem: str, first: str, second: str, inputs: int) -> Branches:
        """Two units of 384 channels side by side, 1 x 3 and 3 x 1."""
        sides = ((f"{stem}{first}", (1, 3)), (f"{stem}{second}", (3, 1)))
        return Branches(tuple(self.chain((name, 384, kernel), inputs=inputs) for name, kernel in sides))


def _block_a(name: str, inputs: int, pooled: int) -> Branches:
    block = _Block(name, inputs)
    return Branches((
        block.chain(("branch1x1", 64, 1)),
        block.chain(("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        block.chain(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        block.chain(MEAN, ("branch_pool", pooled, 1)),
    ))  # fmt: skip


def _block_b(name: str, inputs: int) -> Branches:
    block = _Block(name, inputs)
    return Branches((
        block.chain(("branch3x3", 384, 3, 2)),
        block.chain(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        (MAX_HALVE,),
    ))  # fmt: skip


def _block_c(name: str, inputs: int, width: int) -> Branches:
    block, row, column = _Block(name, inputs), (1, 7), (7, 1)
    return Branches((
        block.chain(("branch1x1", 192, 1)),
        block.chain(("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)),
        block.chain(
            ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, column), ("branch7x7dbl_3", width, row),
            ("branch7x7dbl_4", width, column), ("branch7x7dbl_5", 192, row),
        ),
        block.chain(MEAN, ("branch_pool", 192, 1)),
    ))  # fmt: skip


def _block_d(name: str, inputs: int) -> Branches:
    block = _Block(name, inputs)
    return Branches((
        block.chain(("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
        block.chain(
            ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3, 2),
        ),
        (MAX_HALVE,),
    ))  # fmt: skip


def _block_e(name: str, inputs: int, pool: str) -> Branches:
    block = _Block(name, inputs)
    return Branches((
        block.chain(("branch1x1", 320, 1)),
        block.chain(("branch3x3_1", 384, 1), block.fork("branch3x3_", "2a", "2b", 384)),
        block.chain(
            ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), block.fork("branch3x3dbl_", "3a", "3b", 384)
        ),
        block.chain(pool, ("branch_pool", 192, 1)),
    ))  # fmt: skip


# From a picture of 299 x 299 to 8 x 8 x 2048; the mean over the 64 places is the feature.
LAYOUT: tuple[Any, ...] = (
    Unit("Conv2d_1a_3x3", 3, 32, (3, 3), stride=2, same=False),
    Unit("Conv2d_2a_3x3", 32, 32, (3, 3), same=False),
    Unit("Conv2d_2b_3x3", 32, 64, (3, 3)),
    MAX_HALVE,
    Unit("Conv2d_3b_1x1", 64, 80, (1, 1)),
    Unit("Conv2d_4a_3x3", 80, 192, (3, 3), same=False),
    MAX_HALVE,
    _block_a("Mixed_5b", 192, 32),
    _block_a("Mixed_5c", 256, 64),
    _block_a("Mixed_5d", 288, 64),
    _block_b("Mixed_6a", 288),
    _block_c("Mixed_6b", 768, 128),
    _block_c("Mixed_6c", 768, 160),
    _block_c("Mixed_6d", 768, 160),
    _block_c("Mixed_6e", 768, 192),
    _block_d("Mixed_7a", 768),
    _block_e("Mixed_7b", 1280, MEAN),
    _block_e("Mixed_7c", 2048, MAX),
)
