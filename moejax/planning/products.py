"""FLOPs of the products that a compiled program really computes on one device, bodies of loops as often as they run.

Counted are matrix products, convolutions and kernels that state their costs; a multiply-add is two. On TPU all products
are convolutions, those of a batch of matrices over a window that slides through it: only its positions inside of the
array count.
Source: ours; the rule for windows is that of XLA's cost analysis.
"""

import dataclasses
import json
import math
import re

import numpy as np

from moejax.planning.hlo import Operation, operations

_KERNELS = ("tpu_custom_call", "mosaic_gpu", "__gpu$xla.gpu.triton")
_LIBRARY = ("__cublas$gemm", "__cublas$lt$matmul", "__cudnn$conv")


@dataclasses.dataclass(frozen=True)
class Products:
    """Of one device and one run of the program. dense: of matrix products and convolutions.

    kernels: of kernels over rows, for the rows that there are. again: of both, what the backward pass computes a second time.
    unknown: kernels that do not state what they cost, and products in loops that go round as often as the data say.
    """

    dense: float
    kernels: float
    again: float
    unknown: int

    @property
    def total(self) -> float | None:
        """None where something is unknown."""
        return None if self.unknown else self.dense + self.kernels


def products(hlo: str, *, rows: int | None = None) -> Products:
    """rows: rows of tokens that a device computes in a layer, where experts are loaded evenly. A kernel over groups of rows
    has room for more, and computes those that are there; None: all its room is full.

    Raises SpecError as `operations`.
    """
    dense = kernels = again = 0.0
    unknown = 0
    for operation in operations(hlo, _wanted):
        if not operation.bounded:
            unknown += 1
            continue
        if operation.kind != "custom-call" or any(name in operation.rest for name in _LIBRARY):
            flops = operation.times * _product(operation)
            dense += flops
        elif (cost := _stated(operation)) is None:
            unknown += 1
            continue
        else:
            flops = operation.times * cost * _filled(operation, rows)
            kernels += flops
        again += flops if re.search(r'op_name="[^"]*rematted_computation', operation.rest) else 0.0
    return Products(dense, kernels, again, unknown)


def _wanted(kind: str, rest: str) -> bool:
    if kind == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        return target is not None and target[1].startswith((*_KERNELS, *_LIBRARY))
    return kind in ("dot", "convolution")


def _product(operation: Operation) -> float:
    if operation.kind == "convolution" or "__cudnn$conv" in operation.rest:
        return _convolution(*_conv_sides(operation), operation.rest)
    contracted = re.search(r'lhs_contracting_(?:dims=\{|dimensions":\[)([\d,"]*)', operation.rest)
    axes = [int(axis) for axis in re.findall(r"\d+", contracted[1])] if contracted else []
    left = operation.operands[0].shape
    return 2.0 * math.prod(operation.result[0].shape) * math.prod(left[axis] for axis in axes)


def _conv_sides(operation: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the input and the output; of a library's gradients those of the convolution that they are of."""
    first, second, result = operation.operands[0].shape, operation.operands[1].shape, operation.result[0].shape
    if "convBackwardFilter" in operation.rest:
        return first, second
    return (result, first) if "convBackwardInput" in operation.rest else (first, result)


def _convolution(left: tuple[int, ...], result: tuple[int, ...], rest: str) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    assert labels is not None
    inputs, _, outputs = labels.groups()
    groups = {name: _number(rf"{name}=(\d+)", rest) for name in ("feature_group_count", "batch_group_count")}
    window = _window(rest, sum(letter.isdigit() for letter in inputs))
    positions = math.prod(
        _positions(left[inputs.index(str(i))], result[outputs.index(str(i))], **axis) for i, axis in enumerate(window)
    )
    features = left[inputs.index("f")] // groups["feature_group_count"] * result[outputs.index("f")]
    return 2.0 * features * (left[inputs.index("b")] // groups["batch_group_count"]) * positions


def _window(rest: str, axes: int) -> list[dict[str, int]]:
    """For every spatial axis its size, stride, padding in front and dilations."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def values(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * axes

    columns = (
        values("size", "1"),
        values("stride", "1"),
        values("pad", "0_0"),
        values("lhs_dilate", "1"),
        values("rhs_dilate", "1"),
    )
    return [
        {"size": int(size), "stride": int(stride), "low": int(pad.split("_")[0]), "spread": int(left), "step": int(right)}
        for size, stride, pad, left, right in zip(*columns, strict=True)
    ]  # fmt: skip


def _positions(inputs: int, outputs: int, *, size: int, stride: int, low: int, spread: int, step: int) -> int:
    """Pairs of an output and a place in the window that meet a number of the input, not padding or a hole of dilation."""
    place = np.arange(outputs)[:, None] * stride + np.arange(size)[None, :] * step - low
    return int(np.sum((place >= 0) & (place % spread == 0) & (place // spread < inputs)))


def _stated(operation: Operation) -> float | None:
    found = re.search(r'"cost_estimate":(\{[^}]*\})', operation.rest)
    return float(json.loads(found[1])["flops"]) if found else None


def _filled(operation: Operation, rows: int | None) -> float:
    room = max((array.shape[0] for array in operation.operands if len(array.shape) == 2), default=0)
    return 1.0 if rows is None or room == 0 else min(1.0, rows / room)


def _number(pattern: str, rest: str) -> int:
    found = re.search(pattern, rest)
    return int(found[1]) if found else 1
