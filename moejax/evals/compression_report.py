"""The result of a sweep as a table and a picture.

Source: ours.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moejax.evals import figure_style as style

Result = Mapping[str, Any]  # what `compression_sweep.run_sweep` returns
Cell = Mapping[str, Any]

_MARKERS = "osD^vPX*hp<>8d"


def write_report(result: Result, folder: str | Path) -> tuple[Path, Path]:
    """Writes sweep.md and sweep.png; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table, picture = folder / "sweep.md", folder / "sweep.png"
    table.write_text(markdown(result))
    _draw(result, picture)
    return table, picture


def markdown(result: Result) -> str:
    """Quality by method and budget, and below it everything else that was measured, one row per method and budget."""
    before, headline = result["before"], result["headline"]
    budgets, methods = _budgets(result), _methods(result)
    lines = [
        f"# Compression of {result['subject']}",
        "",
        f"Uncompressed: {headline} {before['quality'][headline]:.4f}, {before['params']:,} parameters, "
        f"{before['flops']:,} FLOPs per example{_speed(before, result)}.",
        "",
        f"{headline.capitalize()} by the fraction of {result['sweep']['unit']} that may stay of the compressed weights "
        "(mean over calibration seeds, ± their standard deviation; without ± one cell, of a method that reads no data):",
        "",
        _row(["method", *(f"{budget:.0%}" for budget in budgets)]),
        _row(["---", *("---:" for _ in budgets)]),
    ]
    lines += [_row([method, *(_quality(result, method, b) for b in budgets)]) for method in methods]
    lines += ["", "Means over seeds; errors are relative, averaged over weights: of the kernels, and of their outputs on the "
              "calibration data. Latency and memory of the first seed's result, memory being the temporary arrays of the "
              "compiled forward pass.", "", *_details(result, methods, budgets)]  # fmt: skip
    lines += ["", *_remarks(result)]
    return "\n".join(lines) + "\n"


def _details(result: Result, methods: Sequence[str], budgets: Sequence[float]) -> list[str]:
    names = sorted({name for cell in result["cells"] if "quality" in cell for name in cell["quality"]})
    head = ["method", "budget", *names, "kernel error", "output error", "seconds", "parameters", "FLOPs", "ms", "MiB"]
    lines = [_row(head), _row(["---", *("---:" for _ in head[1:])])]
    for method in methods:
        for budget in budgets:
            cells = _cells(result, method, budget)
            if not cells:
                continue
            speed = result["structures"].get(cells[0]["structure"], {})
            quality = [f"{statistics.fmean(cell['quality'][name] for cell in cells):.4f}" for name in names]
            lines.append(
                _row([
                    method,
                    f"{budget:.0%}",
                    *quality,
                    _percent(cells, "plain_error"),
                    _percent(cells, "data_error"),
                    f"{_mean(cells, lambda cell: cell['seconds']):.2f}",
                    f"{cells[0]['params']:,}",
                    f"{cells[0]['flops']:,}",
                    f"{speed['milliseconds']:.2f}" if speed else "-",
                    f"{speed['temporary_bytes'] / 2**20:.2f}" if speed else "-",
                ])
            )  # fmt: skip
    return lines


def _remarks(result: Result) -> list[str]:
    lines = []
    for cell in result["cells"]:
        if "unreachable" in cell:
            lines.append(f"- {cell['method']} at {cell['budget']:.0%}, seed {cell['seed']}: {cell['unreachable']}")
    warned = {(cell["method"], cell["budget"]) for cell in result["cells"] if cell.get("warnings")}
    if warned:
        shown = ", ".join(f"{method} at {budget:.0%}" for method, budget in sorted(warned))
        lines.append(f"- Fewer calibration rows than ranks for some experts: {shown}.")
    env = result["environment"]
    lines.append(f"- {env['device']}, {env['cpus']} CPUs, jax {env['versions']['jax']}, {env['date']}.")
    return lines


def _draw(result: Result, path: Path) -> None:
    """Quality, error of the outputs, latency and seconds against the share that stays; one line per method."""
    methods, headline = _methods(result), result["headline"]
    palette = style.expert_colours(len(methods)) / 255
    panels: list[tuple[str, Callable[[Cell], Any]]] = [
        (headline, lambda cell: cell["quality"][headline]),
        ("relative error of the outputs", lambda cell: cell["data_error"]),
        (f"latency of {result['num_examples']} examples, ms", lambda cell: _milliseconds(result, cell)),
        ("seconds to compress", lambda cell: cell["seconds"]),
    ]
    with style.figure(13, 9.5) as canvas:
        axes = canvas.subplots(2, 2).ravel()
        for number, (title, value) in enumerate(panels):
            for method, colour, marker in zip(methods, palette, _MARKERS * 3, strict=False):
                points = _points(result, method, value)
                if points:
                    x, y, deviation = zip(*points, strict=True)
                    axes[number].errorbar(
                        x, y, yerr=deviation, color=colour, marker=marker, markersize=6, linewidth=1.5, capsize=2,
                        label=method,
                    )  # fmt: skip
            axes[number].set_title(title)
            axes[number].set_xlabel(f"share of the compressed weights' {result['sweep']['unit']} that stays")
            style.percent(axes[number], which="x")
            axes[number].invert_xaxis()
        axes[0].axhline(result["before"]["quality"][headline], color=style.MUTED, linestyle="--", linewidth=1)
        if "milliseconds" in result["before"]:
            axes[2].axhline(result["before"]["milliseconds"], color=style.MUTED, linestyle="--", linewidth=1)
        if any(line.get_ydata().max(initial=0) > 0 for line in axes[3].get_lines()):
            axes[3].set_yscale("log")
        handles, labels = axes[0].get_legend_handles_labels()
        style.legend_above(canvas, handles, labels, columns=7)
        style.save(canvas, path)


def _points(result: Result, method: str, value: Callable[[Cell], Any]) -> list[tuple[float, float, float]]:
    points = []
    for budget in _budgets(result):
        values = [value(cell) for cell in _cells(result, method, budget)]
        known = [v for v in values if v is not None]
        if known:
            deviation = statistics.stdev(known) if len(known) > 1 else 0.0
            points.append((budget, statistics.fmean(known), deviation))
    return points


def _quality(result: Result, method: str, budget: float) -> str:
    values = [cell["quality"][result["headline"]] for cell in _cells(result, method, budget)]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation}"


def _speed(measured: Mapping[str, Any], result: Result) -> str:
    if "milliseconds" not in measured:
        return ""
    temporary = measured["temporary_bytes"] / 2**20
    return f", {measured['milliseconds']:.2f} ms for {result['num_examples']} examples, {temporary:.2f} MiB of temporary arrays"


def _milliseconds(result: Result, cell: Cell) -> float | None:
    return result["structures"].get(cell["structure"], {}).get("milliseconds")


def _methods(result: Result) -> list[str]:
    return list(dict.fromkeys(cell["method"] for cell in result["cells"]))


def _budgets(result: Result) -> list[float]:
    return sorted({cell["budget"] for cell in result["cells"]}, reverse=True)


def _cells(result: Result, method: str, budget: float) -> list[Cell]:
    """Those that were reachable, the first seed in front."""
    return [c for c in result["cells"] if (c["method"], c["budget"]) == (method, budget) and "quality" in c]


def _mean(cells: Sequence[Cell], value: Callable[[Cell], float]) -> float:
    return statistics.fmean(value(cell) for cell in cells)


def _percent(cells: Sequence[Cell], name: str) -> str:
    known = [cell[name] for cell in cells if cell[name] is not None]
    return f"{100 * statistics.fmean(known):.2f} %" if known else "-"


def _row(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"
