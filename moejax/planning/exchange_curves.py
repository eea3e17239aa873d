"""Time of an exchange over the number of devices, for every strategy: numbers for JSON, and a picture.

Source: ours.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.evals import figure_style
from moejax.evals.routing_traces import RoutingTrace
from moejax.planning import exchange_costs
from moejax.planning.exchange_costs import Layer
from moejax.planning.links import links_of
from moejax.planning.load_skew import skew


def curves(
    machine: str, make: Any, devices: Sequence[int], trace: RoutingTrace, *, expert_flops: float
) -> dict[str, Any]:
    """make: number of devices -> Layer. expert_flops: of a device's experts in the forward pass, where loads are even.

    'links': the assumed figures. 'devices', 'experts', 'skew' and for each strategy 'seconds', 'inner_bytes' and
    'outer_bytes', a number for each number of devices. 'compute_seconds': of the experts at the chip's peak.
    """
    links = links_of(machine)
    layers: list[Layer] = [make(n) for n in devices]
    skews = [skew(trace, n, layer.experts) for n, layer in zip(devices, layers, strict=True)]
    strategies: dict[str, dict[str, list[float]]] = {}
    for name in exchange_costs.STRATEGIES:
        found = [exchange_costs.phases(name, layer, n, links.group) for n, layer in zip(devices, layers, strict=True)]
        sent = [exchange_costs.sent(phases) for phases in found]
        strategies[name] = {
            "seconds": [
                exchange_costs.seconds(p, links, n, skew=s) for p, n, s in zip(found, devices, skews, strict=True)
            ],
            "inner_bytes": [inner for inner, _ in sent],
            "outer_bytes": [outer for _, outer in sent],
        }
    return {
        "links": links.told(),
        "trace": trace.source,
        "devices": list(devices),
        "experts": [layer.experts for layer in layers],
        "skew": skews,
        "compute_seconds": expert_flops / links.flops,
        "strategies": strategies,
    }


def table(machine: str, found: Mapping[str, Any]) -> str:
    """Milliseconds by strategy and number of devices, in Markdown, under the figures that are assumed."""
    head = ("strategy", *(str(n) for n in found["devices"]))
    rows = [(name, *(f"{1e3 * t:.3g}" for t in one["seconds"])) for name, one in found["strategies"].items()]
    rows.append(("skew of the load", *(f"{value:.2f}" for value in found["skew"])))
    lines = [head, ("---",) * len(head), *rows]
    figures = "\n".join(f"- {line}" for line in found["links"])
    return f"{machine}:\n\n{figures}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(found: Mapping[str, Mapping[str, Any]], path: str | pathlib.Path) -> None:
    """PNG: a panel per machine, its assumed figures under it."""
    with figure_style.figure(7 * len(found), 6) as canvas:
        panels = canvas.subplots(1, len(found), squeeze=False)[0]
        for axes, (machine, one) in zip(panels, found.items(), strict=True):
            for name, strategy in one["strategies"].items():
                axes.plot(one["devices"], [1e3 * t for t in strategy["seconds"]], "o-", markersize=3, label=name)
            axes.axhline(
                1e3 * one["compute_seconds"], color="black", linestyle="--", linewidth=1, label="experts at peak"
            )
            axes.set(xscale="log", yscale="log", ylabel="ms", title=f"{machine}: one layer's exchange, forward")
            axes.set_xticks(one["devices"], [str(n) for n in one["devices"]])
            axes.minorticks_off()
            axes.set_xlabel(
                "devices along the expert axis\n" + "\n".join(_folded(line) for line in one["links"]), fontsize=7
            )
            axes.legend(frameon=False, fontsize=8)
        figure_style.save(canvas, pathlib.Path(path))


def _folded(line: str) -> str:
    return line.replace(" (", "\n(")
