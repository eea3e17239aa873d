"""Plans of many models on many machines: a row for each, as JSON, as a table and as a picture.

A row is what `Estimate.to_dict` says of a mesh, and 'model', 'topology', 'chips', 'batch_size', 'host_seconds' and
'host_cpu_seconds' (of the process that compiled) and 'host_bytes' (its peak memory).
Source: ours.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.core.errors import SpecError
from moejax.evals import figure_style

Row = Mapping[str, Any]
_HEAD = ("model", "chips", "batch", "mesh", "fits", "held + temporaries, GiB", "sent per step, MiB", "executed / activated",
         "again", "step, ms (all beside each other - one after the other)", "bound by", "host: s (CPU s), GiB")  # fmt: skip


def read(path: str | pathlib.Path) -> list[Row]:
    """The rows of a file, none where it is not there. Raises SpecError for a file that holds something else."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
    except ValueError as error:
        raise SpecError(f"{path} is no JSON ({error}); delete it, and plan again.") from error
    if not isinstance(rows, list) or any(not {"model", "chips", "mesh"} <= set(row) for row in rows):
        raise SpecError(f"{path} holds no list of plans; delete it, and plan again.")
    return rows


def write(path: str | pathlib.Path, rows: Sequence[Row]) -> None:
    """Sorted by model, chips and mesh; the file whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(sorted(rows, key=key), indent=1) + "\n")
    partial.replace(path)


def key(row: Row) -> tuple[str, int, str]:
    """What tells rows apart."""
    return row["model"], row["chips"], row["mesh"]


def markdown(rows: Sequence[Row]) -> str:
    """A table with one line per row."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_cells(row) for row in sorted(rows, key=key))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    held = sum(row["held"].values())
    used = max(row["needed"] - held, 0)
    kinds = [f"{kind} {size / 2**20:,.0f}" for kind, size in row["sent"].items() if size >= 2**20]
    failed = row["out_of_memory"] is not None
    fits = (
        "yes" if row["fits"] else "no" if failed else f"no, short by {(row['needed'] - row['limit']) / 2**30:.1f} GiB"
    )
    times = f"{1e3 * row['bound_seconds']:,.0f} - {1e3 * row['sum_seconds']:,.0f}"
    host = f"{row['host_seconds']:.0f} ({row['host_cpu_seconds']:.0f}), {row['host_bytes'] / 2**30:.1f}"
    again = row["again_flops"] / row["activated_flops"]
    return (
        row["model"],
        str(row["chips"]),
        f"{row['batch_size']:,}",
        _short(row["mesh"]),
        fits,
        f"{held / 2**30:.1f} + " + ("?" if failed else f"{used / 2**30:.1f}"),
        "?" if failed else ", ".join(kinds) or "nothing",
        "?" if failed else f"{row['executed_of_activated']:.3f}",
        "?" if failed else f"{again:.2f}",
        "?" if failed else times,
        "?" if failed else row["bound_by"],
        host,
    )


def draw(rows: Sequence[Row], path: str | pathlib.Path) -> None:
    """PNG: memory of one chip, and the least time of a step by what bounds it, over the number of chips."""
    models = sorted({row["model"] for row in rows})
    with figure_style.figure(13, 4.5) as canvas:
        memory, times = canvas.subplots(1, 2)
        for number, model in enumerate(models):
            own = sorted((row for row in rows if row["model"] == model and row["peak"] is not None), key=key)
            chips, colour = [row["chips"] for row in own], f"C{number}"
            memory.plot(chips, [row["needed"] / 2**30 for row in own], "o-", color=colour, label=model)
            times.plot(chips, [1e3 * row["bound_seconds"] for row in own], "o-", color=colour, label=model)
            times.plot(chips, [1e3 * row["wire_seconds"] for row in own], ":", color=colour)
        if rows:
            memory.axhline(rows[0]["limit"] / 2**30, color="black", linestyle="--", linewidth=1)
        memory.set(title="Memory of one chip", xlabel="chips", ylabel="GiB", xscale="log")
        times.set(
            title="Least time of a step; dotted: the wire alone",
            xlabel="chips",
            ylabel="ms",
            xscale="log",
            yscale="log",
        )
        for axes in (memory, times):
            ticks = sorted({row["chips"] for row in rows})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        memory.legend(frameon=False)
        figure_style.save(canvas, pathlib.Path(path))


def _short(mesh: str) -> str:
    """Axes of more than one device."""
    return ", ".join(part for part in mesh.split(", ") if not part.endswith("=1")) or "one chip"
