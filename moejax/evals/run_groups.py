"""Runs that differ only in their seed are one model; what differs between models is a table. Source: ours."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from moejax.evals import figure_style as style
from moejax.evals.run_folders import FINISHED, status
from moejax.evals.runs import Run

# Entries of a config that leave the numbers of a run alone: what is shown, and how processes find each other.
SHOWN = ("name", "train.progress", "train.tensorboard", "train.wandb", "train.processes")
ABSENT = "–"
MOST = 3  # entries that a name may carry


def task_of(run: Run) -> str:
    """'classification', 'diffusion', 'language', ..."""
    return str(_nested(run.config, "task").get("name", "classification"))


def settings(run: Run) -> dict[str, Any]:
    """{'optimizer.learning_rate': 0.002, ...} of a run but for its seed; compressed parameters as one entry, 'structure'."""
    config = json.loads(json.dumps(dict(run.config)))
    structure = config.pop("structure", None)
    flat: dict[str, Any] = traverse_util.flatten_dict(config, sep=".", keep_empty_nodes=False) if config else {}
    flat = {n: v for n, v in flat.items() if n != "seed" and not any(n == s or n.startswith(f"{s}.") for s in SHOWN)}
    if structure is not None:
        digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()[:6]
        flat["structure"] = f"compressed ({digest})"
    return flat


def grouped(runs: Sequence[Run]) -> list[Run]:
    """The runs, in their order, with names such that two share one exactly when their configs differ in nothing but the seed.

    Where several groups have a name, each adds what sets it apart: 'vmoe, learning_rate 0.01'. Test results of a run that is not
    finished are those of some checkpoint and are left out.
    """
    keys = [json.dumps([run.model, task_of(run), settings(run)], sort_keys=True) for run in runs]
    groups: dict[str, list[Run]] = {}
    for key, run in zip(keys, runs, strict=True):
        groups.setdefault(key, []).append(run)
    names = dict(zip(groups, _names(list(groups.values())), strict=True))
    return [_renamed(run, names[key]) for key, run in zip(keys, runs, strict=True)]


def _renamed(run: Run, name: str) -> Run:
    accuracy = run.record.test_accuracy if status(run).state == FINISHED else {}
    return dataclasses.replace(run, record=dataclasses.replace(run.record, model=name, test_accuracy=accuracy))


def by_task(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """Task -> name -> its runs."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        found.setdefault(task_of(run), {}).setdefault(run.model, []).append(run)
    return found


def differences(groups: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, str]]:
    """Entry -> name of the group -> its value, for the entries in which groups differ; a dash where a config lacks it."""
    flat = {name: settings(group[0]) for name, group in groups.items()}
    entries = sorted({entry for found in flat.values() for entry in found})
    table = {e: {name: _shown(found[e]) if e in found else ABSENT for name, found in flat.items()} for e in entries}
    return {entry: values for entry, values in table.items() if len(set(values.values())) > 1}


def looks(runs: Sequence[Run]) -> dict[str, style.Look]:
    """Label, colour and marker of every name, no two alike. Published names are spelt out where the model is a ViT."""
    names = list(dict.fromkeys(run.model for run in runs))
    first = {run.model: run for run in reversed(runs)}
    labels = {}
    for name in names:
        base, comma, rest = name.partition(", ")
        vision = _nested(first[name].config, "model").get("name", "vit") == "vit"
        labels[name] = (style.model_label(base) if vision else base) + comma + rest
    shared = [label for label in labels.values() if list(labels.values()).count(label) > 1]
    return style.distinct({name: name if label in shared else label for name, label in labels.items()})


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    alike: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        alike.setdefault(group[0].model, []).append(index)
    names = [group[0].model for group in groups]
    for name, indices in alike.items():
        if len(indices) == 1:
            continue
        table = differences({str(i): groups[i] for i in indices})
        tasks = {task_of(groups[i][0]) for i in indices}
        for i in indices:
            parts = [f"{entry.rpartition('.')[2]} {values[str(i)]}" for entry, values in table.items()]
            folder = groups[i][0].folder
            told = (
                ", ".join(parts) if parts and len(parts) <= MOST and len(tasks) == 1 else folder.name if folder else ""
            )
            names[i] = f"{name}, {told}" if told else name
    for i, name in enumerate(names):  # folders of one name in different places
        if (before := names[:i].count(name)) > 0:
            names[i] = f"{name} ({before + 1})"
    return names


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _nested(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = config.get(part, {})
    return found if isinstance(found, Mapping) else {}
