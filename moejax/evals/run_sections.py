"""The parts of a report that are there for runs of any task: tables of results, what differs, states, and how to repeat each."""

import json
from pathlib import Path
from typing import Any

from moejax.evals import figure_style as style
from moejax.evals import page
from moejax.evals.report_contents import Report, Section
from moejax.evals.run_folders import FINISHED, status
from moejax.evals.run_groups import by_task, differences
from moejax.evals.run_metrics import Groups, judged_by, means, metrics_of_tests, outcome
from moejax.evals.run_summary import describe_run

WIDEST = 24  # characters of a value in the table of differences


def general_header(report: Report) -> list[str]:
    """Title, how many runs of what, and who is ahead in each task."""
    tasks = by_task(report.runs)
    count = len(report.runs)
    kinds = ", ".join(f"{len(groups)} {task}" for task, groups in tasks.items())
    models = sum(map(len, tasks.values()))
    blocks = [f"<h1>{page.escape(report.title)}</h1>"]
    text = f"{count} run{'s' * (count != 1)} of {models} model{'s' * (models != 1)} ({kinds})."
    blocks.append(page.paragraph(text, "muted"))
    for task, groups in tasks.items():
        metrics = metrics_of_tests(groups)
        valid = judged_by(groups)
        base = None if valid is None else f"test/{valid.name.partition('/')[2]}"
        metric = next((m for m in metrics if m.name == base), metrics[0] if metrics else valid)
        if metric is None:
            continue
        labels = {name: style.model_label(name) for name in groups}
        found = means(groups, metric)
        blocks.append(page.paragraph(f"{task.capitalize()}: {outcome(found, metric, labels)}", "lead"))
        items = []
        for name, mean in found.items():
            value, _, error = metric.shown(mean).partition(" ± ")
            unit = (f"± {error} " if error else "") + ("%" if metric.fraction else "")
            seeds = f"{mean.count} seed{'s' * (mean.count != 1)}"
            items.append(
                page.card(labels[name], value, unit, f"{metric.title} · {seeds}", colour=style.model_colour(name))
            )
        blocks += [page.cards(items)] if items else []
    return blocks


def broken(report: Report, folder: Path) -> Section | None:
    """Runs that are not finished, and folders that could not be read."""
    open_runs = [run for run in report.runs if status(run).state != FINISHED]
    if not (open_runs or report.broken):
        return None
    title = "Not finished, not read"
    blocks = [page.section("open", title, "Their curves are drawn as far as they go; no mean counts them.")]
    rows = [page.row([str(run.folder), status(run).text], colour=style.model_colour(run.model)) for run in open_runs]
    rows += [page.row([str(one.folder), f"not read: {one.reason}"], kind="wrong") for one in report.broken]
    return "open", title, [*blocks, page.table(["run", "state"], rows, kind="states")]


def metrics(report: Report, folder: Path) -> Section | None:
    """A table per task: what judges, and every test result, as means over seeds."""
    title, blocks = "Results in numbers", []
    for task, groups in by_task(report.runs).items():
        valid = judged_by(groups)
        columns = [] if valid is None else [valid]
        columns += metrics_of_tests(groups)
        if not columns:
            continue
        found = {metric.name: means(groups, metric) for metric in columns}
        rows = []
        for name, group in groups.items():
            done = sum(status(run).state == FINISHED for run in group)
            cells = [style.model_label(name), str(done) if done == len(group) else f"{done} of {len(group)}"]
            cells += [metric.shown(found[metric.name].get(name)) for metric in columns]
            best = [False, False, *(_is_best(found[m.name], name, m.higher) for m in columns)]
            rows.append(page.row(cells, colour=style.model_colour(name), best=best))
        head = ["", "seeds", *(metric.title + (" (%)" if metric.fraction else "") for metric in columns)]
        blocks += [f"<h3>{page.escape(task.capitalize())}</h3>", page.table(head, rows, kind="wrapped")]
    if not blocks:
        return None
    text = "Means over finished seeds, ± the standard error; no error for a single seed. Bold: the best mean of at least two models."
    return "numbers", title, [page.section("numbers", title, text), *blocks]


def differing(report: Report, folder: Path) -> Section | None:
    """What sets the models of a task apart: entries of their configs that differ."""
    title, blocks = "What differs", []
    for task, groups in by_task(report.runs).items():
        if table := differences(groups):
            head = ["", *(style.model_label(name) for name in groups)]
            rows = [page.row([entry, *(_short(values[name]) for name in groups)]) for entry, values in table.items()]
            blocks += [f"<h3>{page.escape(task.capitalize())}</h3>", page.table(head, rows, kind="settings")]
            long = {
                f"{e}, {style.model_label(n)}": v for e, vs in table.items() for n, v in vs.items() if len(v) > WIDEST
            }
            if long:
                blocks.append(
                    page.folded("Values in full", "\n".join(f"{name}: {value}" for name, value in long.items()))
                )
    if not blocks:
        return None
    text = "Every entry of the configs in which models of one task differ; runs that differ in nothing but the seed are one model."
    return "differences", title, [page.section("differences", title, text), *blocks]


def repeat(report: Report, folder: Path) -> Section:
    """Every run: how far, when, on what, and the command that makes it again."""
    title, blocks = "Every run", []
    rows, commands = [], []
    for run in report.runs:
        facts = describe_run(run)
        cells = [style.model_label(run.model), str(facts["seed"]), facts["status"], f"{facts['step']:,}"]
        cells += [f"{facts['seconds'] / 60:.1f}", facts["date"][:10] or "–", facts["device"] or "–", facts["folder"]]
        rows.append(page.row(cells, colour=style.model_colour(run.model)))
        commands.append(_command(run, facts))
    head = ["", "seed", "state", "steps", "minutes", "date", "device", "folder"]
    blocks = [page.section("run", title), page.table(head, rows), "<h3>To repeat</h3>", *commands]
    blocks.append(page.facts(report.environment))
    return "run", title, blocks


def _command(run: Any, facts: dict[str, Any]) -> str:
    lines = []
    for one in facts["commands"]:
        place = f"cd {one['folder']}\n" if one["folder"] else ""
        lines.append(f"# from step {one['step']}\n{place}{one['command']}")
    if not lines:
        lines = ["# The command was not recorded: the run has no environment.json. Its config is below."]
    if facts["commit"]:
        changed = ", with changes that are in no commit" if facts["changed_since_commit"] else ""
        lines.append(f"# commit {facts['commit']}{changed}")
    if facts["versions"]:
        lines.append("# " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    if facts["skipped"]:
        lines.append(f"# steps skipped because they were not finite: {', '.join(map(str, facts['skipped']))}")
    label = f"{style.model_label(run.model)}, seed {facts['seed']}"
    config = page.folded("Configuration", json.dumps(run.config, indent=1))
    text = "\n".join(lines)
    return f"<details open><summary>{page.escape(label)}</summary><pre>{page.escape(text)}</pre>{config}</details>"


def _is_best(found: Any, name: str, higher: bool) -> bool:
    if name not in found or len(found) < 2:
        return False
    values = [mean.mean for mean in found.values()]
    return found[name].mean == (max(values) if higher else min(values))


def _short(value: str) -> str:
    return value if len(value) <= WIDEST else f"{value[: WIDEST - 1]}…"


def single_vision_task(report: Report) -> Groups | None:
    """The groups, where all runs classify and every model has a test accuracy; else None."""
    tasks = by_task(report.runs)
    if set(tasks) != {"classification"}:
        return None
    groups = tasks["classification"]
    return groups if all(any(r.record.test_accuracy for r in group) for group in groups.values()) else None
