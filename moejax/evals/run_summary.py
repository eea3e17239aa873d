"""All that a comparison of runs says in numbers, as JSON and as the page's own source. Source: ours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.evals.report_contents import Report
from moejax.evals.run_folders import starts, status
from moejax.evals.run_groups import by_task, differences, looks
from moejax.evals.run_metrics import judged_by, means, metrics_of_tests
from moejax.evals.runs import Run, series


def summarise_runs(report: Report) -> dict[str, Any]:
    """'tasks' (by name: what judges, models with means and standard errors, what differs), 'runs', 'broken', 'notes'.

    JSON-able; a number that is not finite is None.
    """
    labels = {name: look[0] for name, look in looks(report.runs).items()}
    tasks = {}
    for task, groups in by_task(report.runs).items():
        metric = judged_by(groups)
        judged = [] if metric is None else [metric]
        measured = {m.name: means(groups, m) for m in [*judged, *metrics_of_tests(groups)]}
        tasks[task] = {
            "judged_by": None if metric is None else {"name": metric.name, "higher_is_better": metric.higher},
            "models": {
                name: {
                    "label": labels[name],
                    "runs": [str(run.folder) for run in group],
                    "seeds": [run.record.seed for run in group],
                    "metrics": {m: vars(found[name]) for m, found in measured.items() if name in found},
                }
                for name, group in groups.items()
            },
            "differences": differences(groups),
        }
    return {
        "title": report.title,
        "tasks": _finite(tasks),
        "runs": [_finite(describe_run(run)) for run in report.runs],
        "broken": [{"folder": str(one.folder), "reason": one.reason} for one in report.broken],
        "notes": list(report.notes),
        "environment": dict(report.environment),
    }


def describe_run(run: Run) -> dict[str, Any]:
    """One run: where, which, how far, when, on what, and by which commands it was started."""
    state, begun = status(run), starts(run)
    last: Mapping[str, Any] = begun[-1] if begun else {}
    record = run.record
    git = last.get("git")
    return {
        "folder": str(run.folder),
        "model": record.model,
        "seed": record.seed,
        "dataset": record.dataset,
        "state": state.state,
        "status": state.text,
        "step": state.step,
        "steps": state.steps,
        "seconds": record.seconds,
        "skipped": [step for step, _ in zip(*series(run.rows, "skipped"), strict=True)],
        "device": _device(last) or record.device,
        "date": str(last.get("date") or record.date),
        "host": str(last.get("host", "")),
        "versions": dict(last.get("versions") or record.versions),
        "commit": git.get("commit") if isinstance(git, Mapping) else git,
        "changed_since_commit": git.get("changed") if isinstance(git, Mapping) else None,
        "commands": _commands(begun),
        "last": {n: v for n, v in run.rows[-1].items() if isinstance(v, (int, float, str))},
    }


def _commands(begun: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per start whose command or folder is another than the one before: {'command', 'folder', 'step'}."""
    found: list[dict[str, Any]] = []
    for start in begun:
        one = {"command": str(start.get("command", "")), "folder": str(start.get("folder", ""))}
        if one["command"] and (not found or {k: found[-1][k] for k in one} != one):
            found.append(one | {"step": start.get("step", 0)})
    return found


def _device(start: Mapping[str, Any]) -> str:
    device = start.get("device")
    return f"{start.get('devices', 1)} x {device}" if device else ""


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
