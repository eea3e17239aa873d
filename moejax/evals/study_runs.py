"""Runs of the theory's studies, part by part: what is done stays done, and ends in findings, a table and a picture. Source: ours."""

import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from moejax.core.errors import SpecError
from moejax.evals import figure_style, npz_files, study_tables
from moejax.evals.timing import environment
from moejax.theory.findings import Expected, Finding
from moejax.theory.studies.contract import Raw, Study

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9.=+ _-]*")
_SECONDS = "_seconds"
RESULT = "study.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A finished study. seconds: of all its parts, wall clock, whenever they ran. command: that repeats it. chart: its PNG."""

    name: str
    claim: str
    protocol: str
    command: str
    seed: int
    config: Mapping[str, Any]
    seconds: float
    findings: tuple[Finding, ...]
    environment: Mapping[str, Any]
    chart: Path


def run_study(
    study: Study, folder: str | Path, *, name: str, config: Mapping[str, Any], command: str, progress: bool = True
) -> StudyRun:
    """Works on the parts that `folder` does not hold, then judges them all; writes parts/*.npz, study.json, table.md, chart.png.

    Raises SpecError where the folder holds parts of another config.
    """
    folder = Path(folder)
    _claim(folder, {"name": name, **config})
    raw, seconds = {}, 0.0
    for done, part in enumerate(tqdm.tqdm(study.parts, desc=name, disable=not progress, leave=False)):
        found = dict(_part(study, part, folder))
        seconds += float(found.pop(_SECONDS))
        raw[part] = found
        _tell(folder, step=done + 1, steps=len(study.parts), part=part)
    begin = time.perf_counter()
    findings, chart = study.findings(raw), study.chart(raw)
    seconds += time.perf_counter() - begin
    with figure_style.figure(9, study_tables.height(chart)) as canvas:
        study_tables.draw(canvas, chart, title=name)
        figure_style.save(canvas, folder / "chart.png")
    run = StudyRun(
        name=name, claim=study.claim, protocol=study.protocol, command=command, seed=study.seed, config=dict(config),
        seconds=seconds, findings=tuple(findings), environment=environment(), chart=folder / "chart.png",
    )  # fmt: skip
    (folder / "table.md").write_text(study_tables.table(run.findings))
    _write(folder / RESULT, {k: v for k, v in _plain(run).items() if k != "chart"})
    return run


def read_study(folder: str | Path) -> StudyRun:
    """A finished one. Raises SpecError where there is none."""
    path = Path(folder) / RESULT
    if not path.is_file():
        raise SpecError(f"{folder} holds no finished study; run experiments/theory.py with this --workdir first.")
    try:
        content = json.loads(path.read_text())
        findings = tuple(_finding(one) for one in content.pop("findings"))
        return StudyRun(**content, findings=findings, chart=Path(folder) / "chart.png")
    except (ValueError, TypeError, KeyError) as error:
        raise SpecError(f"{path} is damaged ({error}); delete it and run the study again.") from error


def _claim(folder: Path, config: Mapping[str, Any]) -> None:
    """Parts of one config alone lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    wanted = json.loads(json.dumps(config))
    if not path.exists():
        _write(path, wanted)
        return
    found = json.loads(path.read_text())
    if differing := sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)):
        key = differing[0]
        raise SpecError(
            f"{folder} holds the parts of another study: config.{key} is {found.get(key)!r} there and {wanted.get(key)!r} here. "
            "Give another --workdir."
        )


def _part(study: Study, part: str, folder: Path) -> Raw:
    """From the folder where it is done; else worked on, and kept whole or not at all."""
    if not _PART.fullmatch(part):
        raise SpecError(f"part {part!r} of {type(study).__name__} cannot be the name of a file.")
    path = folder / "parts" / f"{part}.npz"
    if path.exists():
        remedy = "Delete it; the same command makes it again."
        return npz_files.read_arrays(path, [_SECONDS], what="estimates", remedy=remedy)
    begin = time.perf_counter()
    found = {name: np.asarray(values) for name, values in study.estimates(part).items()}
    found[_SECONDS] = np.asarray(time.perf_counter() - begin)
    npz_files.write_arrays(path, found)
    return found


def _tell(folder: Path, **row: Any) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are none become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _finding(content: Mapping[str, Any]) -> Finding:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    low, high = content["interval"]
    changed = {
        "expected": Expected(**content["expected"]),
        "measured": number(content["measured"]),
        "interval": (number(low), number(high)),
        "sizes": tuple(content["sizes"]),
        "replicates": tuple(content["replicates"]),
    }
    return Finding(**{**content, **changed})


def _write(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)
