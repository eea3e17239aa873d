"""Finished runs, read from their folders or from a recorded results file.

A results file is a JSON list; an entry is
    {"model": str, "seed": int, "dataset": str, "steps": int, "seconds": float, "num_test": int,
     "test_accuracy": {"all": fraction, "<domain>": fraction, ...}, "curve": [[step, validation accuracy], ...],
     "total_params": int, "activated_params": int, "flops_per_example": int,
     "config": str, "device": str, "date": "YYYY-MM-DD", "versions": {package: version}}
where all from "num_test" on but "test_accuracy" and "curve" may be missing.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moejax.core.errors import SpecError, did_you_mean

Number = int | float
REQUIRED = ("model", "seed", "steps", "seconds", "test_accuracy", "curve")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of one run; the fields are the keys of a results file."""

    model: str
    seed: int
    steps: int
    seconds: Number
    test_accuracy: Mapping[str, Number]
    curve: Sequence[Sequence[Number]]
    dataset: str = ""
    num_test: int | None = None
    total_params: int | None = None
    activated_params: int | None = None
    flops_per_example: int | None = None
    config: str = ""
    device: str = ""
    date: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
    """A record and all that its folder holds: rows of metrics.jsonl, config, evaluation.json (None when not there)."""

    record: Record
    folder: Path | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None

    @property
    def model(self) -> str:
        """The name that runs of one model share."""
        return self.record.model

    @property
    def skipped(self) -> list[int]:
        """Steps whose batch was left out, as a loss or gradient was not finite."""
        return [row["step"] for row in self.rows if "skipped" in row]

    @property
    def remarks(self) -> list[str]:
        """Sentences about what a reader of its numbers must know."""
        found = [] if self.finished else [f"{self.folder} is not finished (step {self.record.steps})."]
        if self.skipped:
            steps = ", ".join(map(str, self.skipped))
            found.append(f"{self.folder} left out {len(self.skipped)} batches that were not finite, of steps {steps}.")
        return found

    @property
    def command(self) -> str | None:
        """The exact command that began the run, with the commit it ran from; None for runs of versions that did not record it."""
        try:
            start = json.loads((self.folder / "environment.json").read_text())["starts"][0] if self.folder else None
        except (OSError, ValueError, KeyError, IndexError):
            return None
        if start is None:
            return None
        commit = f"git checkout {start['git']['commit']}\n" if start.get("git") else ""
        return f"{commit}cd {start['folder']}\n{start['command']}"

    @property
    def finished(self) -> bool:
        """True when training wrote its final row, the one with test results."""
        return any(key.startswith("test/") for row in self.rows[-1:] for key in row)


def find_runs(folder: str | Path) -> list[Run]:
    """All runs below `folder`, by model and seed.

    Raises SpecError when the folder is missing or holds no run, saying what a run looks like.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SpecError(
            f"{root} is no folder; give the folder that holds the runs (a run has config.json and metrics.jsonl)."
        )
    found = sorted(path.parent for path in root.rglob("metrics.jsonl") if (path.parent / "config.json").exists())
    if not found:
        raise SpecError(
            f"{root} holds no run: no folder in it has both config.json and metrics.jsonl. "
            "Train first (make demo, or experiments/train.py --workdir), then give the folder above the runs."
        )
    return sorted((read_run(path) for path in found), key=lambda run: (run.model, run.record.seed))


def read_run(folder: str | Path) -> Run:
    """One run from its folder. Raises SpecError when a file is not JSON or has no row."""
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise SpecError(f"{folder / 'config.json'} is no config: it holds no names with values.")
    rows = read_rows(folder / "metrics.jsonl")
    evaluation = _read_json(folder / "evaluation.json") if (folder / "evaluation.json").exists() else None
    return Run(_record(config, rows, evaluation or {}), folder, rows, config, evaluation)


def finished_run(folder: str | Path) -> Run | None:
    """The run in `folder` if it has its test results, else None. Source: ours."""
    try:
        run = read_run(folder)
    except SpecError:
        return None
    return run if run.finished else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, one per step.

    A half-written last line of an interrupted run is left out; of rows of one step the later values count.
    Raises SpecError for a broken line, and when there is no row.
    """
    by_step: dict[int, dict[str, Any]] = {}
    if not path.exists():
        raise SpecError(f"{path} does not exist; the run stopped before its first report.")
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise SpecError(f"{path}:{number} is no JSON ({error}); delete the line or the run.") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise SpecError(f"{path}:{number} is no row: it has no whole number 'step'; delete the line or the run.")
        by_step[row["step"]] = by_step.get(row["step"], {}) | row
    if not by_step:
        raise SpecError(f"{path} has no row; the run stopped before its first report.")
    return [by_step[step] for step in sorted(by_step)]


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[Any]]:
    """Steps and values of the rows that have `key`."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def block_series(rows: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Blocks with routing metrics and the names of these: {'block_03': {'load', 'entropy', ...}}."""
    blocks: dict[str, set[str]] = {}
    for row in rows:
        for key in row:
            name, _, metric = key.removeprefix("train/").partition("/")
            if name.startswith("block_") and metric:
                blocks.setdefault(name, set()).add(metric)
    return dict(sorted(blocks.items()))


def read_records(path: str | Path) -> list[Record]:
    """A results file. Raises SpecError for a missing file, missing keys or unknown keys."""
    entries = _read_json(Path(path))
    known = {field.name for field in dataclasses.fields(Record)}
    if not isinstance(entries, list):
        raise SpecError(f"{path} must be a JSON list of runs; see moejax/evals/runs.py.")
    for i, entry in enumerate(entries):
        for key in REQUIRED:
            if key not in entry:
                raise SpecError(f"{path}: entry {i} lacks {key!r}; every run needs {', '.join(REQUIRED)}.")
        for key in entry:
            if key not in known:
                raise SpecError(f"{path}: entry {i} has the unknown key {key!r}.{did_you_mean(key, known)}")
    return [Record(**entry) for entry in entries]


def write_records(records: Sequence[Record], path: str | Path) -> None:
    """Writes a results file that `read_records` reads."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("[\n" + ",\n".join(json.dumps(dataclasses.asdict(record)) for record in records) + "\n]\n")


def _record(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], evaluation: Mapping) -> Record:
    test: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if key == "test/accuracy":
                test["all"] = value
            elif key.startswith("test/accuracy/"):
                test[key.removeprefix("test/accuracy/")] = value
    measured = evaluation.get("accuracy") if evaluation.get("split") == "test" else None
    if measured:
        test = {"all": measured["all"]["accuracy"]} | {k: v["accuracy"] for k, v in measured["domains"].items()}
    steps, values = series(rows, "valid/accuracy")
    facts = {**evaluation.get("summary", {}), **evaluation.get("environment", {})}
    known = ("total_params", "activated_params", "flops_per_example", "device", "date", "versions", "config")
    data = config.get("data", {})
    return Record(
        model=str(config.get("name", "model")),
        seed=int(config.get("seed", 0)),
        steps=int(rows[-1]["step"]),
        seconds=float(max(row.get("time", 0.0) for row in rows)),
        test_accuracy=test,
        curve=[[step, value] for step, value in zip(steps, values, strict=True)],
        dataset=str(data.get("name", "") if isinstance(data, Mapping) else data),
        num_test=measured["all"]["count"] if measured else None,
        **{key: facts[key] for key in known if key in facts},
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SpecError(f"{path} does not exist.") from error
    except json.JSONDecodeError as error:
        raise SpecError(f"{path} is no JSON ({error}).") from error
