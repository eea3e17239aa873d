"""Methods x budgets x calibration seeds on one subject: each cell a file, so that a stopped sweep goes on where it was.

Source: ours.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moejax.compress.statistics import Statistics
from moejax.compress.statistics_file import load, save
from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.evals.compression_cells import (
    Method,
    Setting,
    comparable_methods,
    compressed,
    measure_cell,
    measure_structures,
    structure_name,
    union_of_kinds,
)
from moejax.evals.compression_subject import Subject
from moejax.evals.remembered_factors import Memory
from moejax.evals.timing import environment
from moejax.evals.weight_costs import num_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which cells there are.

    methods: names of moejax/compress or configs with a 'name'; () takes all that fit the subject. 'NAME+refit' is NAME with
        the sequential update.
    budgets: fractions that stay. seeds: of the calibration data; a method that reads none gets the first only, and so do
        those that `once` names.
    rounds: of the latency measurement; 0 leaves it out. unit, allocation: as for `compress`.
    """

    methods: tuple[str | dict, ...] = ()
    budgets: tuple[float, ...] = (0.9, 0.75, 0.5, 0.25)
    seeds: tuple[int, ...] = (0, 1, 2)
    once: tuple[str, ...] = ()
    unit: str = "params"
    allocation: str | None = None
    rounds: int = 15

    def __post_init__(self) -> None:
        if not self.budgets or not self.seeds:
            raise SpecError(f"budgets={self.budgets} and seeds={self.seeds} need one entry each at least.")

    def settings(self, subject: Subject) -> list[Setting]:
        """Every method at every budget."""
        chosen: tuple[Method, ...] = self.methods or comparable_methods(subject)
        return [
            setting_of(method, budget, unit=self.unit, allocation=self.allocation)
            for method in chosen
            for budget in self.budgets
        ]


def setting_of(method: Method, budget: float, *, unit: str, allocation: str | None) -> Setting:
    """The setting that an entry of `Sweep.methods` names; whole banks are compressed by parameters, without an allocation."""
    again = isinstance(method, str) and method.endswith("+refit")
    name = method.removesuffix("+refit") if isinstance(method, str) else method
    if hasattr(build_method("compress", name, path="method"), "compress_bank"):
        unit, allocation = "params", None
    return Setting(method=name, budget=budget, unit=unit, allocation=allocation, sequential=again)


def label(setting: Setting) -> str:
    """How a method is called in files and tables: its name, and the fields that are set."""
    if isinstance(setting.method, str):
        return setting.method + ("+refit" if setting.sequential else "")
    fields = [f"{key}={value}" for key, value in setting.method.items() if key != "name"]
    return "_".join([str(setting.method["name"]), *fields])


def run_sweep(
    subject: Subject, sweep: Sweep, folder: str | Path, *, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Computes what is missing in `folder` and writes sweep.json there; returns its contents.

    'subject', 'headline', 'num_examples', 'sweep', 'environment', 'before' (params, flops, quality, and latency like a
    structure's), 'cells' (records of `measure_cell` with 'method', 'budget', 'seed'), 'structures' (name -> latency).
    """
    folder = Path(folder)
    settings = sweep.settings(subject)
    later = [setting for setting in settings if label(setting) not in sweep.once]
    kinds = {seed: union_of_kinds(settings if seed == sweep.seeds[0] else later) for seed in sweep.seeds}
    statistics = _StatisticsOfSeeds(subject, kinds, folder, say)
    kept: dict[str, Any] = {}  # structure -> parameters, for the latency at the end
    cells = []
    remembered, memory = ("", -1), Memory()  # factorisations of one method and seed, for all budgets
    for seed in sweep.seeds:
        for setting in settings:
            if seed != sweep.seeds[0] and (not setting.kinds() or label(setting) in sweep.once):
                continue
            if remembered != (label(setting), seed):
                remembered, memory = (label(setting), seed), Memory()
            path = folder / "cells" / f"{label(setting)}-{setting.budget:g}-{seed}.json"
            asked = json.loads(json.dumps(dataclasses.asdict(setting)))
            cell = _stored(path, asked)
            if cell is None:
                record, params = measure_cell(subject, setting, statistics.of(seed), seed=seed, memory=memory)
                cell = {
                    "method": label(setting),
                    "budget": setting.budget,
                    "seed": seed,
                    "asked": asked,
                    **record,
                }
                _write(path, cell)
                if params is not None and seed == sweep.seeds[0]:
                    kept.setdefault(record["structure"], params)
                say(_line(cell, subject.headline))
            cells.append(cell)
    structures = _latencies(subject, sweep, settings, cells, kept, statistics, folder, say) if sweep.rounds else {}
    result = {
        "subject": subject.name,
        "headline": subject.headline,
        "num_examples": subject.num_examples,
        "sweep": dataclasses.asdict(sweep),
        "environment": environment(),
        "before": {
            "params": num_params(subject.params),
            "flops": subject.flops(subject.params),
            "quality": subject.quality(subject.params),
            **structures.get("before", {}),
        },
        "cells": cells,
        "structures": structures,
    }
    _write(folder / "sweep.json", result)
    return json.loads((folder / "sweep.json").read_text())


class _StatisticsOfSeeds:
    """Collected once per seed, and kept in a file; only those of the last seed are in memory."""

    def __init__(
        self, subject: Subject, kinds: Mapping[int, tuple[str, ...]], folder: Path, say: Callable[[str], None]
    ) -> None:
        self.subject, self.kinds, self.folder, self.say = subject, kinds, folder, say
        self.seed: int | None = None
        self.statistics: Statistics = {}

    def of(self, seed: int) -> Statistics:
        if seed == self.seed:
            return self.statistics
        path = self.folder / "statistics" / f"seed_{seed}.safetensors"
        report: dict[str, Any] = {}
        if path.exists():
            self.statistics, report = load(path, self.subject.params)
        kinds = list(self.kinds[seed])
        if report.get("kinds") != kinds:
            found = self.subject.collect(kinds, seed=seed)
            totals = {key: value for key, value in found.report().items() if key != "bytes_by_weight"}
            save(path, found.statistics, report={"kinds": kinds, **totals})
            self.statistics = found.statistics
            self.say(f"statistics of seed {seed}: {totals['bytes'] / 2**20:.1f} MiB in {totals['seconds']:.1f} s")
        self.seed = seed
        return self.statistics


def _latencies(
    subject: Subject, sweep: Sweep, settings: list[Setting], cells: list[dict[str, Any]], kept: dict[str, Any],
    statistics: _StatisticsOfSeeds, folder: Path, say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Structure -> latency and memory; all of the first seed's are measured in turn, or none when they are on disk."""
    path = folder / "latency.json"
    first = [cell for cell in cells if cell["seed"] == sweep.seeds[0] and "structure" in cell]
    wanted = {cell["structure"] for cell in first}
    stored = _stored(path, sweep.rounds)
    if stored is not None and wanted <= stored["structures"].keys():
        return stored["structures"]
    by_name = {(label(setting), setting.budget): setting for setting in settings}
    for cell in first:
        if cell["structure"] not in kept:  # computed by an earlier call: only its numbers are on disk
            setting, seed = by_name[cell["method"], cell["budget"]], cell["seed"]
            kept[cell["structure"]] = compressed(subject, setting, statistics.of(seed), seed=seed).params
    say(f"latency of {len(wanted)} structures, {sweep.rounds} rounds in turn")
    trees = {"before": subject.params} | {name: kept[name] for name in sorted(wanted)}
    found = measure_structures(subject, trees, rounds=sweep.rounds)
    found[structure_name(subject.params)] = found["before"]
    _write(path, {"asked": sweep.rounds, "structures": found})
    return found


def _stored(path: Path, asked: Any) -> dict[str, Any] | None:
    found = json.loads(path.read_text()) if path.exists() else None
    return found if found is not None and found["asked"] == asked else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def _line(cell: Mapping[str, Any], headline: str) -> str:
    head = f"{cell['method']} at {cell['budget']:.0%}, seed {cell['seed']}: "
    if "unreachable" in cell:
        return head + cell["unreachable"].splitlines()[0][:120]
    error = "" if cell["data_error"] is None else f", error of outputs {cell['data_error']:.1%}"
    return head + f"{headline} {cell['quality'][headline]:.4f}{error}, {cell['seconds']:.1f} s"
