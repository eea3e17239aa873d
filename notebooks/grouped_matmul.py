# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How a grouped matmul works
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/grouped_matmul.ipynb)
#
# When a router has spoken, every expert has some rows to multiply with its own matrix: this one 300, that one 12, another none. Chips like
# rectangles of one size. This notebook shows how a kernel for TPUs gets along with both: we look at its tiles, work through them in plain NumPy, run the
# real kernel in an interpreter, and ask what its speed is bound by. A CPU is enough.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("moejax") is None:  # on Colab
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/moejax/moejax"])

# %%
import json
import os
import pathlib
import urllib.request

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle
from moejax_kernels.grouped_matmul import grouped_matmul
from moejax_kernels.grouped_matmul.work_items import product_items

import moejax
from moejax.evals import figure_style
from moejax.planning.chips import CHIPS

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in (
    "",
    "0",
)  # fewer points in some curves, to test that this notebook runs
plt.rcParams.update(figure_style.STYLE)
draw = np.random.default_rng(0)

# %% [markdown]
# ## Ragged rows
#
# 72 rows are sorted by expert. Six experts have 21, 3, 0, 25, 8 and 9 of them; the last 6 rows belong to nobody. Three ways to multiply:
#
# - *every row with every matrix*, and keep what is wanted: simple, and six times the work;
# - *pad* each group to the largest: one batched product, in which the empty slots are multiplied too;
# - *as it is*: each row once. That is what we want.

# %%
SIZES = np.array([21, 3, 0, 25, 8, 9], np.int32)
M, E = 72, len(SIZES)
ends = np.cumsum(SIZES)
starts = ends - SIZES
colours = figure_style.expert_colours(E) / 255.0

figure, panels = plt.subplots(1, 3, figsize=(11, 5), layout="constrained")
for e in range(E):
    for other in range(E):
        panels[0].add_patch(
            Rectangle((e, starts[other]), 0.9, SIZES[other], facecolor=colours[e], alpha=0.95 if e == other else 0.18)
        )
    panels[1].add_patch(Rectangle((e, 0), 0.9, SIZES.max(), facecolor=colours[e], alpha=0.18))
    panels[1].add_patch(Rectangle((e, 0), 0.9, SIZES[e], facecolor=colours[e]))
    panels[2].add_patch(Rectangle((0, starts[e]), 0.9, SIZES[e], facecolor=colours[e]))
work = {"all rows, all matrices": E * ends[-1], "padded": E * SIZES.max(), "as it is": ends[-1]}
for panel, (name, rows) in zip(panels, work.items(), strict=True):
    panel.set(xlim=(-0.2, E + 0.1), ylim=(M, -1), title=f"{name}: {rows} rows", xlabel="matrix", ylabel="row")
    panel.set_xticks(np.arange(E) + 0.45, range(E))
    panel.grid(False)
panels[1].set_ylabel("slot")
panels[2].set(xlim=(-2, 3), xlabel="", xticks=[])
panels[2].legend(
    handles=[Patch(color=c, label=f"expert {e}: {n}") for e, (c, n) in enumerate(zip(colours, SIZES, strict=True))],
    loc="center right",
    fontsize=9,
)
plt.show()

# %% [markdown]
# ## Tiles, and the groups that share them
#
# The matrix unit of a chip takes a fixed number of rows at once, a *tile*: here 16, on a TPU 128 to 512. Groups do not end where tiles
# end. So a tile with rows of two groups is visited twice, each time with another matrix, and each time only the rows of that group are stored.
#
# One visit, a tile and a group, is a *work item*. The list of items depends on the group sizes, which are known only when the program runs, so a few
# vector operations make it on the chip:

# %%
TILE = 16
items = product_items(jnp.asarray(SIZES), M, TILE)
multiplying, active = (int(n) for n in items.counts)
print(f"{len(items.group)} items have room, {multiplying} multiply, {active - multiplying} only store zeros")
print(f"{'item':>5}{'tile':>6}{'group':>7}{'rows of the group':>20}{'of them in the tile':>22}")
for i in range(len(items.group)):
    first, last = (
        max(int(items.start[i]), int(items.tile[i]) * TILE),
        min(int(items.end[i]), (int(items.tile[i]) + 1) * TILE),
    )
    kind = f"{first} to {last - 1}" if i < active else "repeats the last: does nothing"
    group = int(items.group[i]) if i < multiplying else "-"
    print(f"{i:5}{int(items.tile[i]):6}{group:>7}{f'{int(items.start[i])} to {int(items.end[i]) - 1}':>20}{kind:>22}")

# %% [markdown]
# The same as a picture. From left to right the items in the order in which the kernel takes them; a box is the tile that it loads, the filled part
# what it stores. Group 2 is empty and costs nothing. Tile 1 has rows of three groups and is visited three times, but stays in
# fast memory meanwhile: items are sorted by row.

# %%
figure, axis = plt.subplots(figsize=(10, 5.2), layout="constrained")
for i in range(active):
    tile, group = int(items.tile[i]), int(items.group[i])
    first, last = max(int(items.start[i]), tile * TILE), min(int(items.end[i]), (tile + 1) * TILE, M)
    colour = colours[group] if i < multiplying else (0.8, 0.8, 0.8)
    box = {"facecolor": "white", "edgecolor": "#9aa5b1", "hatch": "////", "linewidth": 1}
    axis.add_patch(Rectangle((i + 0.08, tile * TILE), 0.84, min(TILE, M - tile * TILE), **box))
    axis.add_patch(Rectangle((i + 0.08, first), 0.84, last - first, facecolor=colour, edgecolor="black", linewidth=1))
    name = f"group {group}" if i < multiplying else "zeros"
    middle = {"ha": "center", "va": "center", "fontsize": 8.5}
    axis.text(i + 0.5, (first + last) / 2, name, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, **middle)
for edge in ends[:-1]:
    axis.axhline(edge, color="#d55e00", linewidth=1, linestyle=":")
axis.set(
    xlim=(0, active),
    ylim=(M, 0),
    xlabel="work item",
    ylabel="row",
    title="what each item loads (box) and stores (filled)",
)
axis.set_xticks(np.arange(active) + 0.5, range(active))
axis.set_yticks([*range(0, M, TILE), M])
axis.annotate("dotted: borders of groups", (0.015, 0.03), xycoords="axes fraction", fontsize=9, color="#d55e00")
axis.grid(False)
plt.show()

# %% [markdown]
# ## The kernel, in NumPy
#
# Depth and columns are cut into tiles as well. For each tile of columns the kernel walks over the items, and for each item over the
# depth. It adds up products in an accumulator, and stores the rows of the group.

# %%
D, F = 256, 384
DEPTH, COLUMNS = 128, 128
x = draw.normal(size=(M, D)).astype(np.float32)
w = (draw.normal(size=(E, D, F)) / np.sqrt(D)).astype(np.float32)


def by_items(x, w, sizes):
    """What the kernel does, step by step."""
    items = jax.tree.map(np.asarray, product_items(jnp.asarray(sizes), len(x), TILE))
    padded = np.pad(x, ((0, -len(x) % TILE), (0, 0)))
    out = np.full((len(padded), w.shape[2]), np.nan, np.float32)  # nothing is stored yet
    for j in range(0, w.shape[2], COLUMNS):
        for i in range(items.counts[1]):
            rows = slice(items.tile[i] * TILE, (items.tile[i] + 1) * TILE)
            total = np.zeros((TILE, COLUMNS), np.float32)
            if i < items.counts[0]:
                for k in range(0, x.shape[1], DEPTH):
                    total += padded[rows, k : k + DEPTH] @ w[items.group[i], k : k + DEPTH, j : j + COLUMNS]
            row = np.arange(rows.start, rows.stop)
            own = ((row >= items.start[i]) & (row < items.end[i]))[:, None]
            out[rows, j : j + COLUMNS] = np.where(own, total, out[rows, j : j + COLUMNS])
    return out[: len(x)]


reference = grouped_matmul(x, w, SIZES, implementation="reference")  # every row with every matrix
print(f"in NumPy, by items: largest difference {np.abs(by_items(x, w, SIZES) - reference).max():.1e}")
assert np.allclose(by_items(x, w, SIZES), reference, atol=1e-4)

# %% [markdown]
# Every entry was stored (no NaN is left), rows of nobody are zero.
#
# ## The real one, interpreted
#
# The kernel for TPUs is written in Pallas: grid, blocks and a body. `interpret=True` runs it on a CPU, as slowly as an interpreter does. The name says which
# implementation is used, and the library never takes another one silently.

# %%


def product_and_gradients(implementation, sizes, **options):
    """The product, and the gradients of a loss in the rows and in the matrices."""

    def loss(x, w):
        y = grouped_matmul(x, w, sizes, implementation=implementation, **options)
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, w)
    return y, *gradients


try:
    grouped_matmul(x, w, SIZES, implementation="pallas_tpu")
except ValueError as error:
    print("ValueError:", error)

# %%
kernel = {"implementation": "pallas_tpu", "tiling": (TILE, DEPTH, COLUMNS), "interpret": True}
patterns = {"as above": SIZES, "all to one": np.array([0, 0, 0, 72, 0, 0]), "nobody has any": np.zeros(E, int)}
for name, sizes in list(patterns.items())[: 1 if SMOKE else 3]:
    found = product_and_gradients(sizes=jnp.asarray(sizes, jnp.int32), **kernel)
    expected = product_and_gradients("reference", jnp.asarray(sizes, jnp.int32))
    errors = [float(jnp.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]
    empty = [e for e in range(E) if sizes[e] == 0]
    exact = not np.any(np.asarray(found[2])[empty])
    print(f"{name:16}product {errors[0]:.0e}, gradient in rows {errors[1]:.0e}, in matrices {errors[2]:.0e};", end=" ")
    print(f"matrices of the empty groups {empty} get a gradient of exactly zero: {exact}")
    assert max(errors) < 1e-3 and exact

# %% [markdown]
# The gradient in the rows is a grouped product too, with the matrices transposed. That in the matrices is a sum over the rows of each group; there an empty
# group does need an item, to store its zeros.
#
# ## What tiles cost
#
# Each border inside of a tile costs another visit. How much more than the useful work that is, depends on the rows of a tile and on how uneven groups are. Below are
# 4096 rows in uneven groups. Dashed is what padding to the largest group would cost.

# %%
tiles = (32, 128, 512) if SMOKE else (16, 32, 64, 128, 256, 512, 1024)
figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
for experts, colour, marker in ((8, "#0072b2", "o"), (32, "#d55e00", "s"), (128, "#009e73", "^")):
    weight = np.exp(0.6 * draw.normal(size=experts))
    sizes = draw.multinomial(4096, weight / weight.sum()).astype(np.int32)
    visited = [int(product_items(jnp.asarray(sizes), 4096, tile).counts[0]) * tile / 4096 for tile in tiles]
    axis.loglog(tiles, visited, marker=marker, color=colour, label=f"{experts} experts")
    axis.axhline(experts * sizes.max() / 4096, color=colour, linestyle="--", linewidth=1)
axis.set(xlabel="rows of a tile", ylabel="rows multiplied / useful rows", title="the price of borders")
axis.set_xticks(tiles, [str(tile) for tile in tiles])
axis.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# Small tiles waste little, but load each matrix more often, and a matrix unit is not full with few rows. The kernel takes tiles of about as many rows as an even group has, up to
# 512, and where a tile is shared it multiplies only the pieces of 128 rows that the group reaches into.
#
# ## The bound
#
# A product of n rows with a D x F matrix does 2 n D F operations and must read the matrix: n operations per byte in bfloat16. A chip that does 240 operations in the time
# it reads a byte is therefore idle below 240 rows per expert, whatever the kernel. That is the first thing to ask of a slow mixture of experts: how many rows has an expert?

# %%
rows = np.array([2**p for p in range(3, 14)], float)
width, hidden = 1280, 5120  # V-MoE-H/14
figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
for name, colour, marker in (("v5e", "#0072b2", "o"), ("v5p", "#56b4e9", "s"), ("h100", "#009e73", "^")):
    chip = CHIPS[name]
    compute = 2 * rows * width * hidden / chip.flops
    traffic = 2 * (width * hidden + rows * (width + hidden)) / chip.bandwidth
    axis.semilogx(rows, 100 * compute / np.maximum(compute, traffic), marker=marker, color=colour, label=name)
axis.set(
    xlabel="rows per expert", ylabel="at most this % of the peak", title="D = 1280, F = 5120, bfloat16", ylim=(0, 104)
)
axis.set_xticks(rows[::2], [f"{n:g}" for n in rows[::2]])
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# ## What was measured
#
# The repository keeps what its benchmarks found, with the machine and the date. These are of two CPU cores, where `implementation=None` means the XLA version: blocks of rows, largest
# first. 1 is a dense product of the same rows with a single matrix: the same arithmetic, with one matrix to read instead of E. `batched` is the usual way of
# layers with a capacity, 1.25 times the mean for every expert; it drops what does not fit. **The TPU kernel was compiled for real chips, but never timed on one.**

# %%
path = pathlib.Path(moejax.__file__).parents[1] / "kernels" / "bench" / "results" / "grouped_matmul_cpu.json"
if not path.exists():  # on Colab: installed packages carry no results
    url = f"https://raw.githubusercontent.com/moejax/moejax/main/kernels/bench/results/{path.name}"
    path = pathlib.Path(urllib.request.urlretrieve(url)[0])
measured = json.loads(path.read_text())
about = measured["environment"]
print(
    f"{about['date'][:10]}, {about['cpus']} cores of {about['machine']}, jax {about['versions']['jax']}, {measured['dtype']}"
)

cases = list(dict.fromkeys(row["case"] for row in measured["results"]))
figure, axis = plt.subplots(figsize=(10, 4.4), layout="constrained")
for offset, (method, name, colour) in enumerate(
    (("ours", "ours", "#0072b2"), ("batched", "batched, with a capacity", "#e69f00"))
):
    found = [
        [
            row["ratio"]
            for row in measured["results"]
            if (row["case"], row["method"], row["pass"]) == (case, method, "forward")
        ]
        for case in cases
    ]
    middle = np.array([np.median(ratios) for ratios in found])
    spread = [middle - [min(ratios) for ratios in found], [max(ratios) for ratios in found] - middle]
    place = np.arange(len(cases)) + 0.4 * (offset - 0.5)
    axis.bar(place, middle, width=0.38, color=colour, label=name, yerr=spread, error_kw={"linewidth": 1})
axis.axhline(1, color="black", linewidth=1, linestyle="--")
axis.set_xticks(range(len(cases)), [case.replace(", ", "\n") for case in cases], fontsize=8.5)
axis.set(ylabel="time / dense product", title="forward; bars: median over distributions of rows, lines: least and most")
axis.legend()
plt.show()

# %% [markdown]
# Next: `grouped_gated_matmul` does the two products of SwiGLU and reads the rows once; `kernels/bench/run.py` measures on your machine; `kernels/bench/tune.py` looks for better tiles
# and keeps them as data.
