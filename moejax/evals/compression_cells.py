"""One compression of a subject, measured: error, quality, parameters, FLOPs, seconds; and latency and memory of the result.

Source: ours.
"""

import dataclasses
import hashlib
import json
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from moejax.compress.compress import Compressed, compress
from moejax.compress.statistics import LeafStatistics, Statistics
from moejax.compress.weights import find, materialise
from moejax.core.errors import SpecError
from moejax.core.spec import build_method, methods
from moejax.evals.compression_subject import Subject
from moejax.evals.remembered_factors import Memory, remembering
from moejax.evals.timing import interleaved
from moejax.evals.weight_costs import num_params
from moejax.linear.structure import describe

Method = str | dict[str, Any]  # a name of moejax/compress, or {'name': ..., field: value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What one compression is asked for; budget, unit and allocation as for `compress`.

    sequential: after truncation each layer is fitted again on what the layers before it now put out.
    """

    method: Method
    budget: float
    unit: str = "params"
    allocation: str | None = None
    sequential: bool = False

    def kinds(self) -> tuple[str, ...]:
        """Statistics that the method and the allocation need. Raises SpecError for an unknown method."""
        needs = build_method("compress", self.method, path="method").needs
        return tuple(dict.fromkeys([*needs, *(["fisher_rows"] if self.allocation == "fisher" else [])]))


def comparable_methods(subject: Subject) -> tuple[str, ...]:
    """The methods of moejax/compress that make weights smaller, 'NAME+refit' beside those with a sequential update.

    Those for banks of experts only where there are banks.
    """
    banked = any(len(weight.shape) == 3 for weight in find(subject.params, subject.only).values())
    wanted = ("factorise", "compress_bank") if banked else ("factorise",)
    fitting = {name: cls for name, cls in methods("compress").items() if any(hasattr(cls, part) for part in wanted)}
    return tuple(
        shown
        for name, cls in fitting.items()
        for shown in (name, *([f"{name}+refit"] if hasattr(cls, "refit") else []))
    )


def compressed(
    subject: Subject, setting: Setting, statistics: Statistics | None, *, seed: int, memory: Memory | None = None
) -> Compressed:
    """The subject's parameters compressed. Warnings are left to the report. Raises SpecError as `compress` does.

    seed: of the calibration data, where a method looks at them again. memory: of factorisations for other budgets.
    """
    method = build_method("compress", setting.method, path="method")
    like = subject.params

    def collect_again(params: Any, names: Sequence[str]) -> Statistics:
        only = "|".join(f"^{re.escape(name)}$" for name in names)
        return subject.collect(setting.kinds(), seed=seed, params=materialise(params, like=like), only=only).statistics

    measured = getattr(subject, "loss", None)
    loss = None if measured is None else lambda params: measured(materialise(params, like=like), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return compress(
            subject.params,
            method=method if memory is None else remembering(method, memory),
            budget=setting.budget,
            unit=setting.unit,
            statistics=statistics,
            only=subject.only,
            allocation=setting.allocation,
            loss=loss if setting.allocation == "sensitivity" else None,
            sequential=collect_again if setting.sequential else None,
        )


def measure_cell(
    subject: Subject, setting: Setting, statistics: Statistics | None, *, seed: int, memory: Memory | None = None
) -> tuple[dict[str, Any], Any]:
    """(record, compressed parameters); ({'unreachable': why}, None) where the budget cannot be met.

    The record: 'seconds' to compress (with those that the memory saved), 'share' of the compressed weights' parameters that
    is left, 'params' and 'flops' of the whole model (per example), 'quality', 'weights' (name -> ranks and errors), 'data_error' and 'plain_error' (means over
    weights), 'structure' (a name for what decides latency), 'warnings'.
    Quality is that of the dense kernels which the leaves stand for, so that one compiled program serves all cells.
    """
    memory = memory or Memory()
    memory.saved, begin = 0.0, time.perf_counter()
    try:
        found = compressed(subject, setting, statistics, seed=seed, memory=memory)
    except SpecError as error:
        return {"unreachable": str(error)}, None
    seconds = time.perf_counter() - begin + memory.saved
    dense = materialise(found.params, like=subject.params)
    errors = kernel_errors(subject, dense, statistics)
    ranks = {weight.name: list(weight.ranks) for weight in found.report.weights}
    own = {weight.name: weight.own_error for weight in found.report.weights}
    weights = {name: {"ranks": ranks.get(name), "own_error": own.get(name), **error} for name, error in errors.items()}
    record = {
        "seconds": seconds,
        "share": _share(subject, found.params),
        "params": num_params(found.params),
        "flops": subject.flops(found.params),
        "quality": subject.quality(dense),
        "weights": weights,
        "structure": structure_name(found.params),
        "warnings": list(found.report.warnings),
    }
    for name in ("plain_error", "data_error"):
        values = [value for error in errors.values() if (value := error[name]) is not None]
        record[name] = float(np.mean(values)) if values else None
    return record, found.params


def kernel_errors(subject: Subject, dense: Any, statistics: Statistics | None) -> dict[str, dict[str, float | None]]:
    """By weight: 'plain_error', the relative Frobenius distance of the kernels, and 'data_error', that of their outputs.

    None for both where whole channels are gone, so that there is nothing to compare entry by entry.
    """
    before, after = (find(params, subject.only) for params in (subject.params, dense))
    found: dict[str, dict[str, float | None]] = {}
    for name, weight in before.items():
        if after[name].shape != weight.shape:
            found[name] = {"plain_error": None, "data_error": None}
            continue
        own = (statistics or {}).get(name, LeafStatistics())
        plain, data = np.zeros(2), np.zeros(2)
        for index in range(weight.num_matrices):
            kernel = weight.matrix(index)
            pair = (kernel - after[name].matrix(index), kernel)
            plain += [np.sum(part**2) for part in pair]
            if own.second_moment is not None:
                moment = np.asarray(
                    own.second_moment if len(weight.shape) == 2 else own.second_moment[index], np.float64
                )
                data += [max(np.sum(part * (moment @ part)), 0.0) for part in pair]
        known = own.second_moment is not None
        found[name] = {"plain_error": _relative(plain), "data_error": _relative(data) if known else None}
    return found


def measure_structures(subject: Subject, params: Mapping[str, Any], *, rounds: int) -> dict[str, dict[str, Any]]:
    """For each entry 'milliseconds' (median of `rounds` forward passes, all entries in turn), 'quartiles',
    'temporary_bytes' and 'argument_bytes' of the compiled program, and 'difference': the largest deviation of its output from
    that of the dense kernels, relative to the largest output.
    """
    inputs = jax.numpy.asarray(subject.inputs)
    reference = jax.jit(subject.apply)
    programs: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, tree in params.items():
        program = jax.jit(subject.apply).lower(tree, inputs).compile()
        memory = program.memory_analysis()
        assert memory is not None  # only backends that are not XLA know nothing
        dense = np.asarray(reference(materialise(tree, like=subject.params), inputs), np.float64)
        deviation = np.abs(np.asarray(program(tree, inputs), np.float64) - dense).max() / max(
            np.abs(dense).max(), 1e-30
        )
        programs[name] = lambda program=program, tree=tree: program(tree, inputs)
        found[name] = {
            "temporary_bytes": int(memory.temp_size_in_bytes),
            "argument_bytes": int(memory.argument_size_in_bytes),
            "difference": float(deviation),
        }
    for name, seconds in interleaved(programs, rounds=rounds).items():
        low, median, high = (1000 * float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
        found[name] |= {"milliseconds": median, "quartiles": [low, high]}
    return found


def structure_name(params: Any) -> str:
    """A short name that parameters share exactly when their compiled programs are the same."""
    return hashlib.sha256(json.dumps(describe(params), sort_keys=True).encode()).hexdigest()[:12]


def union_of_kinds(settings: Sequence[Setting]) -> tuple[str, ...]:
    """All kinds that any of them needs, and 'second_moment', by which errors are compared."""
    return tuple(dict.fromkeys(["second_moment", *(kind for setting in settings for kind in setting.kinds())]))


def _share(subject: Subject, params: Any) -> float:
    """Of the parameters of the chosen weights; biases beside them count as unchanged where they are."""
    before = sum(int(np.prod(weight.shape)) for weight in find(subject.params, subject.only).values())
    return (before - (num_params(subject.params) - num_params(params))) / before


def _relative(squares: np.ndarray) -> float:
    return float(np.sqrt(squares[0] / squares[1])) if squares[1] > 0 else 0.0
