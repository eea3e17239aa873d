"""A bar per mesh: memory by kind against the limit, and the three bounds on the time.

Source: ours.
"""

import pathlib

from moejax.evals import figure_style
from moejax.planning.estimate import Estimate


def draw(found: list[Estimate], path: str | pathlib.Path) -> None:
    """Writes a PNG."""
    with figure_style.figure(12, 1.5 + 0.6 * len(found)) as canvas:
        memory, bounds = canvas.subplots(1, 2)
        names = [one.mesh.replace(", ", "\n") if len(found) < 4 else one.mesh for one in found]
        for row, one in enumerate(found):
            left = 0.0
            kinds = one.held | {"temporaries": max(one.needed - sum(one.held.values()), 0.0)}
            for number, (kind, size) in enumerate(kinds.items()):
                colour = f"C{number}"
                memory.barh(row, size / 2**30, left=left, color=colour, label=kind if row == 0 else None)
                left += size / 2**30
            times = {"compute": one.compute_seconds, "memory": one.memory_seconds, "wire": one.wire_seconds}
            for number, (kind, seconds) in enumerate(times.items()):
                label = kind if row == 0 else None
                bounds.barh(row + 0.25 * (1 - number), 1e3 * seconds, height=0.22, color=f"C{number}", label=label)
        memory.axvline(found[0].limit / 2**30, color="black", linestyle="--", linewidth=1)
        memory.set(title="Memory of one chip", xlabel="GiB", yticks=range(len(found)), yticklabels=names)
        bounds.set(title="Least time of a step", xlabel="ms", yticks=range(len(found)), yticklabels=[""] * len(found))
        memory.legend(frameon=False)
        bounds.legend(frameon=False)
        figure_style.save(canvas, pathlib.Path(path))
