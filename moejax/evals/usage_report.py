"""Expert usage as files: arrays, pictures, and a page of verdicts with their numbers. Source: ours."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moejax.evals import figure_style as style
from moejax.evals import usage_figures as figures
from moejax.evals.expert_usage import Usage
from moejax.evals.npz_files import write_arrays
from moejax.evals.usage_information import Information, information
from moejax.evals.usage_observations import Observation, observations


def write_usage_report(
    folder: Path,
    usages: Mapping[str, Usage],
    *,
    model: str,
    class_names: Sequence[str],
    draws: int = 100,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes usage-*.npz, over_*.png, tells.png, observations.json and expert_usage.md; returns the last.

    usages: by the name of what was watched. facts: what else the page should say about the run, JSON-able.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: information(usage, draws=draws, seed=seed) for name, usage in usages.items()}
    verdicts = {name: observations(usage, found[name], draws=draws, seed=seed) for name, usage in usages.items()}
    for name, usage in usages.items():
        write_arrays(folder / f"usage-{_plain(name)}.npz", usage.arrays())
        _pictures(folder, name, usage, class_names, model)
    with style.figure(5.2 * (len(usages) + 1), 4.4) as canvas:
        figures.tells(canvas, usages, found)
        style.save(canvas, folder / "tells.png")
    content = {
        "model": model,
        "facts": dict(facts or {}),
        "draws": draws,
        "seed": seed,
        "observations": {n: {key: o.to_dict() for key, o in own.items()} for n, own in verdicts.items()},
    }
    (folder / "observations.json").write_text(json.dumps(content, indent=1))
    page = folder / "expert_usage.md"
    page.write_text("\n".join(_page(usages, found, verdicts, model=model, draws=draws, facts=facts or {})) + "\n")
    return page


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def _pictures(folder: Path, name: str, usage: Usage, class_names: Sequence[str], model: str) -> None:
    title, end = f"{model}, {name}", _plain(name)
    with style.figure(*figures.time_size(usage)) as canvas:
        figures.over_time(canvas, usage, title=title)
        style.save(canvas, folder / f"over_time-{end}.png")
    with style.figure(*figures.image_size(usage)) as canvas:
        figures.over_image(canvas, usage, title=title)
        style.save(canvas, folder / f"over_image-{end}.png")
    with style.figure(*figures.class_size(usage)) as canvas:
        figures.over_classes(canvas, usage, class_names, title=title)
        style.save(canvas, folder / f"over_classes-{end}.png")


def _page(
    usages: Mapping[str, Usage],
    found: Mapping[str, Mapping[str, Information]],
    verdicts: Mapping[str, Mapping[str, Observation]],
    *,
    model: str,
    draws: int,
    facts: Mapping[str, Any],
) -> list[str]:
    lines = [f"# Expert usage of {model}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "| observation of DiT-MoE | watched on | verdict | because |", "|---|---|---|---|"]
    for name, own in verdicts.items():
        lines += [f"| {one.statement} | {name} | **{one.verdict}** | {one.reason} |" for one in own.values()]
    lines += ["", "![what the expert tells](tells.png)", ""]
    for name, usage in usages.items():
        lines += [f"## Watched on {name}", "", *_information_table(usage, found[name]), ""]
        lines += [f"- {key}: {_numbers(one.numbers)}" for key, one in verdicts[name].items()]
        lines += ["", *(f"![{kind}](over_{kind}-{_plain(name)}.png)" for kind in ("time", "image", "classes")), ""]
    lines += [
        f"Chance levels from {draws} shuffles, intervals from {draws} resamplings of the pictures; they speak of this model, "
        "not of other training runs. Bits of expert and place, time or class depend on how many of them there are.",
    ]
    return lines


def _information_table(usage: Usage, found: Mapping[str, Information]) -> list[str]:
    names = list(found)
    lines = [
        "| layer | " + " | ".join(f"{name}, bits (chance)" for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    for layer, block in enumerate(usage.blocks):
        cells = [f"{one.bits[layer]:.4f} ({one.shuffled[:, layer].mean():.4f})" for one in found.values()]
        lines.append(f"| {block.removeprefix('block_')} | " + " | ".join(cells) + " |")
    counts = {"position": usage.place_mass.shape[2], "time": len(usage.times), "class": usage.num_classes}
    told = ", ".join(f"{counts[name]} values of {name}, p = {one.p_value:.3f}" for name, one in found.items())
    return [*lines, "", f"{len(usage.label)} pictures, {usage.num_experts} experts; {told} (mean over the layers)."]


def _numbers(numbers: Mapping[str, Any]) -> str:
    """The single numbers and the intervals; lists per layer and time are in the JSON file and the pictures."""
    parts = []
    for key, value in numbers.items():
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if not isinstance(v, list) or len(v) == 2 and key.endswith("_95")}
            parts += [f"{key} of {k} {_short(v)}" for k, v in inner.items()]
        elif not isinstance(value, list) or key.endswith("_95"):
            parts.append(f"{key} {_short(value)}")
    return "; ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_short(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
