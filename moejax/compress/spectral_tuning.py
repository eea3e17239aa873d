"""Kernels of a tree rewritten in their singular bases, and what to freeze so that only their spectra train.

Source: ours.
"""

import re
import time
from typing import Any

import jax
import numpy as np

from moejax.compress.contract import SpectralMethod
from moejax.compress.report import Report, WeightReport
from moejax.compress.weights import find, replace
from moejax.core.tree import flatten, leaf_names
from moejax.linear.freezing import trainable


def convert_kernels(params: Any, method: SpectralMethod, name: str, *, only: str | None) -> tuple[Any, Report]:
    """The tree with a spectral leaf for every matched kernel [D F] or bank [E D F]; what it computes stays the same.

    The report counts as `after` the numbers that train, since that is what such a method is chosen for.
    """
    nodes, rows, before, trained = {}, [], 0, 0
    for weight in find(params, only).values():
        begin = time.perf_counter()
        kernel = np.asarray(weight.array).astype(np.float64)
        leaf = method.convert(kernel)
        nodes[weight.name] = leaf
        rows.append(_report(weight.name, kernel, leaf, time.perf_counter() - begin))
        before, trained = before + kernel.size, trained + method.num_trained(kernel)
    report = Report(name, "uniform", "params", 1.0, float(before), float(before), float(trained), tuple(rows))
    return replace(params, nodes), report


def frozen_but_spectra(params: Any, *, trained: tuple[str, ...] = ()) -> tuple[str, ...]:
    """One regex per array that is no spectrum, as `Optimizer.frozen` takes them.

    trained: regexes of other arrays that are to train as well, such as a new head.
    """
    spectra = _spectra(params)
    others = [name for name in leaf_names(params) if name not in spectra]
    return tuple(f"^{re.escape(name)}$" for name in others if not any(re.search(pattern, name) for pattern in trained))


def _spectra(params: Any) -> set[str]:
    """Names of the arrays that train in leaves that freeze others of theirs."""
    flags = flatten(trainable(params))
    found = set()
    for path, node in jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda part: hasattr(part, "FROZEN"))[0]:
        if hasattr(node, "FROZEN"):
            prefix = jax.tree_util.keystr(path, simple=True, separator="/")
            names = ["/".join(filter(None, (prefix, part))) for part in leaf_names(node)]
            found |= {full for full in names if flags[full]}
    return found


def _report(name: str, kernel: np.ndarray, leaf: Any, seconds: float) -> WeightReport:
    scale = float(np.linalg.norm(kernel))
    error = float(np.linalg.norm(np.asarray(leaf.materialise(), np.float64) - kernel)) / scale if scale else 0.0
    return WeightReport(
        name=name, shape=tuple(kernel.shape), ranks=(), params_before=kernel.size, params_after=leaf.num_params(),
        flops_before=2 * kernel.shape[-2] * kernel.shape[-1], flops_after=leaf.flops_per_row(), own_error=None,
        plain_error=error, seconds=seconds,
    )  # fmt: skip
