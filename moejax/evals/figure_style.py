"""One look for all figures: a colour per model, a colour per expert, both safe for colour-blind readers.

Source: model colours from Okabe and Ito 2008; expert colours ours, after Paul Tol's "muted" scheme, told apart by
lightness as well as hue.
"""

import contextlib
import contextvars
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from moejax.evals.page import DPI

INK = "#1f2933"
MUTED = "#6b7785"
GRID = "#e6e9ed"
MODELS = (  # (part of the config's name, label, colour, marker); the first that is found counts
    ("dense", "Dense ViT", "#4a5568", "o"),
    ("expert_choice", "Expert choice", "#d55e00", "s"),
    ("soft", "Soft MoE", "#009e73", "D"),
    ("vmoe", "V-MoE", "#0072b2", "^"),
    ("merge", "SMEAR", "#cc79a7", "P"),
    ("switch", "Switch", "#56b4e9", "v"),
    ("hash", "Hash", "#b8860b", "X"),
    ("uniform", "Uniform", "#7b5ea7", "h"),
)
OTHER = ("#8c564b", "#1b7f9e", "#a05195", "#6a994e", "#bc4749", "#386641")
EXPERTS = ("#5b4fc4", "#e3c94f", "#1f8a4c", "#d1607a", "#7cc7ee", "#96306e", "#3fae9d", "#f0894f",
           "#3d7ab8", "#b3cc33", "#b25fb2", "#8a8a2e", "#9db8e8", "#7a3b12", "#f2a8bd", "#2b5d5d")  # fmt: skip

Look = tuple[str, str, str]  # label, colour, marker
MARKERS = ("o", "s", "D", "^", "P", "v", "X", "h", "*", "<", ">")
_LOOKS: contextvars.ContextVar[Mapping[str, Look] | None] = contextvars.ContextVar("looks", default=None)

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.9,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def model_label(name: str) -> str:
    """How a model is called in figures and tables."""
    return _model(name)[1]


def model_colour(name: str) -> str:
    """The model's colour, the same everywhere."""
    return _model(name)[2]


def model_marker(name: str) -> str:
    """The model's marker, so that colour is not the only sign."""
    return _model(name)[3]


def distinct(labels: Mapping[str, str]) -> dict[str, Look]:
    """Name -> look for these names and labels. A model keeps its own colour; where two would share one, the later gets another."""
    looks: dict[str, Look] = {}
    used: set[str] = set()
    spare = [*(entry[2] for entry in MODELS), *OTHER, *EXPERTS]
    for name in sorted(labels, key=model_order):
        _, _, colour, marker = _model(name)
        if colour in used:
            colour = next((c for c in spare if c not in used), colour)
            marker = MARKERS[len(looks) % len(MARKERS)]
        used.add(colour)
        looks[name] = (labels[name], colour, marker)
    return looks


@contextlib.contextmanager
def looking(looks: Mapping[str, Look]) -> Iterator[None]:
    """Inside, these names have these looks."""
    token = _LOOKS.set(looks)
    try:
        yield
    finally:
        _LOOKS.reset(token)


def model_order(name: str) -> tuple[int, str]:
    """Sort key: dense first, then V-MoE, expert choice, Soft MoE, then the others."""
    first = ("dense", "vmoe", "expert_choice", "soft")
    return next((i for i, part in enumerate(first) if _model(name)[0] == part), len(first)), name


def expert_colours(num_experts: int) -> np.ndarray:
    """uint8 [E 3]. Beyond the palette, its colours come again, lighter and darker by turns."""
    base = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in EXPERTS], np.float64)
    rows = []
    for expert in range(num_experts):
        turn, colour = expert // len(base), base[expert % len(base)]
        toward = 255.0 if turn % 2 else 0.0
        rows.append(colour + (toward - colour) * min(0.75, 0.3 * ((turn + 1) // 2)))
    return np.rint(np.array(rows)).astype(np.uint8)


@contextlib.contextmanager
def figure(width: int | float, height: int | float) -> Iterator[Figure]:
    """An empty figure in the common style, in inches, without any global state left behind."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(
            figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.035, hspace=0.045)
        )
        FigureCanvasAgg(canvas)
        yield canvas


def save(canvas: Figure, path: Path, *, dpi: int = DPI) -> Path:
    """Writes a PNG, whole or not at all."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=dpi)
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
    return path


def legend_above(canvas: Figure, handles: Sequence, labels: Sequence[str], *, columns: int = 6) -> None:
    """One legend for all panels, above them."""
    canvas.legend(
        handles, labels, loc="outside upper center", ncols=min(columns, max(len(labels), 1)), columnspacing=1.8
    )


def percent(axes: Axes, *, which: str = "y") -> None:
    """Ticks of a fraction as per cent."""
    formatter = matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g}")
    getattr(axes, f"{which}axis").set_major_formatter(formatter)


def compact(value: int | float) -> str:
    """1234567 -> '1.23 M'."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def _model(name: str) -> tuple[str, str, str, str]:
    if (look := (_LOOKS.get() or {}).get(name)) is not None:
        return next((e[0] for e in MODELS if e[0] in _plain(name)), name), *look
    for entry in MODELS:
        if entry[0] in _plain(name):
            return entry
    return name, name, OTHER[sum(map(ord, name)) % len(OTHER)], "o"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace("v_moe", "vmoe")
