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
# # Making a trained mixture of experts smaller
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/smaller_experts.ipynb)
#
# We train a small vision transformer with experts, look at what its experts' kernels consist of and at what the data see of
# them, and then take parameters away by three methods through one call. A CPU is enough.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("moejax") is None:  # on Colab
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/moejax/moejax"])

# %%
import os
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np

from moejax.compress import compress
from moejax.compress.svd import Svd
from moejax.compress.svd_llm import SvdLlm
from moejax.compress.weights import find, materialise
from moejax.core.segments import split_segments
from moejax.core.spec import build_method, build_spec
from moejax.data import opening
from moejax.evals import figure_style
from moejax.evals.compression_cells import kernel_errors
from moejax.evals.vision_subject import VisionSubject
from moejax.train.checkpoints import load_run
from moejax.train.loop import Train, run
from moejax.train.optimizers import Optimizer

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in ("", "0")  # two tiny steps, to test that this notebook runs
STEPS = 2 if SMOKE else 400
EXPERTS = 4 if SMOKE else 8
plt.rcParams.update(figure_style.STYLE)

# %% [markdown]
# ## A trained model
#
# The same V-MoE as in the quickstart: four blocks, the last two with experts.

# %%
config = {
    "name": "vmoe",
    "seed": 0,
    "model": {
        "name": "vit",
        "image_size": 32,
        "patch_size": 8,
        "dim": 16 if SMOKE else 64,
        "depth": 2 if SMOKE else 4,
        "num_heads": 4,
        "mlp_dim": 32 if SMOKE else 128,
        "num_classes": 29,
        "stem": "conv",
        "pooling": "avg",
        "moe_layers": "final2",
        "moe": {
            "router": {
                "name": "top_k",
                "num_experts": EXPERTS,
                "importance_loss_weight": 0.005,
                "load_loss_weight": 0.005,
            },
            "experts": {"name": "mlp", "expert_dim": 32 if SMOKE else 128},
            "group_size": 128,
        },
    },
    "task": {"name": "classification"},
    "data": {
        "name": "patchwork",
        "batch_size": 8 if SMOKE else 128,
        "eval_batch_size": 32 if SMOKE else 256,
        "max_examples": 64 if SMOKE else None,
        "augment": {"pad_crop": {"pad": 3}},
    },
    "optimizer": {"learning_rate": 2e-3, "warmup_steps": STEPS // 10 + 1, "weight_decay": 0.05},
    "train": {"steps": STEPS, "log_every": 20, "eval_every": 0, "checkpoint_every": 0, "tensorboard": False},
}
data = opening.build(config["data"])
task = build_method("tasks", {**config["task"], "model": config["model"]})
optimizer, loop = build_spec(Optimizer, config["optimizer"]), build_spec(Train, config["train"])
folder = tempfile.mkdtemp()
run(task, data, optimizer, loop, workdir=folder, config=config, seed=config["seed"])
_, params, state, _ = load_run(folder, which="last")

# %% [markdown]
# ## What the data see of a kernel
#
# Parameters are stored with layers of one structure stacked; compressed layers differ, so we take them apart first.
# One pass over training pictures then counts, for every expert by itself, the second moments of what it reads, how many
# tokens it gets, and keeps some rows of what the router reads.

# %%
subject = VisionSubject(
    name="vmoe",
    task=task,
    params=split_segments(params),
    state=split_segments(state),
    dataset=data,
    examples=16 if SMOKE else 512,
    batch_size=8 if SMOKE else 64,
    split="val" if "val" in data.info.split_sizes else "test",
)
collected = subject.collect(("second_moment", "rows"), seed=0)
weights = find(subject.params, subject.only)
print(f"{collected.examples} pictures, {collected.report()['bytes'] / 2**20:.1f} MiB of statistics")
for name, weight in weights.items():
    print(f"{name:32}{weight.shape}  tokens per expert: {np.asarray(collected.statistics[name].count).astype(int)}")

# %% [markdown]
# Singular values say what a kernel loses when its rank is cut. They fall slowly: a trained kernel is no low-rank matrix.
# Weighted by what the expert really reads (SVD-LLM), they fall faster, since its inputs do not fill the space.

# %%
figure, axes = plt.subplots(1, len(weights), figsize=(3.5 * len(weights), 3), layout="constrained", sharey=True)
for axis, (name, weight) in zip(axes, weights.items(), strict=True):
    busiest = int(np.argmax(collected.statistics[name].count))
    kernel, own = weight.matrix(busiest), collected.statistics[name].expert(busiest)
    for label, method, line in (("kernel", Svd(), "#0072b2"), ("kernel and data", SvdLlm(), "#d55e00")):
        energy = np.cumsum(method.factorise(kernel, own).spectrum ** 2)
        axis.plot(np.arange(1, len(energy) + 1), energy / energy[-1], color=line, label=label)
    axis.set(title=f"{name.removeprefix('blocks/')}, expert {busiest}", xlabel="rank")
    axis.grid(alpha=0.3)
axes[0].set_ylabel("part of the squares that is kept")
axes[0].legend()
plt.show()

# %% [markdown]
# ## Three methods, one call
#
# `svd` cuts each kernel by itself and needs no data; `svd_llm` cuts it in the norm of what it puts out; `sub_moe` cuts no
# kernel but merges experts whose outputs point the same way. A budget of 0.5 leaves half of the experts' parameters.

# %%
METHODS = {"svd": ("#0072b2", "o"), "svd_llm": ("#d55e00", "s"), "sub_moe": ("#009e73", "^")}  # colours and markers
BUDGETS = (0.5,) if SMOKE else (0.75, 0.5, 0.25)
found, dense = {}, {}
for method in METHODS:
    for budget in BUDGETS:
        made = compress(
            subject.params, method=method, budget=budget, only=subject.only, statistics=collected.statistics
        )
        found[method, budget] = made
        dense[method, budget] = materialise(made.params, like=subject.params)
print(found["svd_llm", 0.5].report)

# %% [markdown]
# What comes back is a tree of parameters like the one before, with other leaves in the places of the kernels. The model
# computes with it as it is, and spends less:

# %%
images = np.asarray(subject.inputs)
apply = jax.jit(subject.apply)
for method in METHODS:
    made = found[method, 0.5]
    leaf = made.params["blocks"][f"{task.model.depth - 1:02d}"]["moe"]["experts"]["up"]
    same = np.allclose(apply(made.params, images), apply(dense[method, 0.5], images), atol=1e-2)
    inside = f" of {type(leaf.leaf).__name__}" if hasattr(leaf, "leaf") else ""
    print(
        f"{method:10}{type(leaf).__name__}{inside}, {leaf.num_params()} parameters, {leaf.flops_per_row()} FLOPs per token, "
        f"as its dense kernels: {same}"
    )

# %% [markdown]
# ## The error of each layer
#
# Of the kernels (plain) and of what they put out on the calibration data. A method that looks at the data may be worse in
# the first and better in the second, which is the one that the next layer sees.

# %%
names = list(weights)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.5), layout="constrained", sharey=True)
for offset, method in enumerate(METHODS):
    errors = kernel_errors(subject, dense[method, 0.5], collected.statistics)
    for axis, kind in zip(axes, ("plain_error", "data_error"), strict=True):
        height = [errors[name][kind] for name in names]
        axis.bar(
            np.arange(len(names)) + 0.25 * (offset - 1), height, width=0.25, color=METHODS[method][0], label=method
        )
for axis, title in zip(axes, ("error of the kernels", "error of their outputs"), strict=True):
    axis.set(title=f"{title}, half of the parameters", ylim=(0, 1))
    axis.set_xticks(np.arange(len(names)), [name.removeprefix("blocks/").replace("moe/experts/", "") for name in names])
    axis.grid(axis="y", alpha=0.3)
axes[0].legend()
plt.show()

# %% [markdown]
# ## What it costs in accuracy
#
# One model, one seed of the calibration: read the picture as an example. `experiments/compress.py --sweep` compares all
# methods over several seeds, with latency and memory beside it.

# %%
before = subject.quality(subject.params)["accuracy"]
figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
for method in METHODS:
    accuracy = [subject.quality(dense[method, budget])["accuracy"] for budget in BUDGETS]
    share = [found[method, budget].report.after / found[method, budget].report.before for budget in BUDGETS]
    colour, marker = METHODS[method]
    axis.plot(100 * np.asarray(share), 100 * np.asarray(accuracy), color=colour, marker=marker, label=method)
    assert np.all(np.isfinite(accuracy)) and np.all(np.asarray(share) <= np.asarray(BUDGETS))
axis.axhline(100 * before, color="black", linewidth=1, label="before")
axis.set(xlabel="parameters of the experts that are left [%]", ylabel="accuracy [%]")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# ## Your own parameters
#
# No model of this library is needed: any nested dict of arrays will do, and rows of inputs are all the data.

# %%
from moejax.compress.statistics import from_rows

kernel = jax.random.normal(jax.random.key(0), (48, 64))
rows = jax.random.normal(jax.random.key(1), (500, 48)) * np.geomspace(1.0, 1e-2, 48).astype(np.float32)
tree = {"layer": {"kernel": kernel, "bias": np.zeros(64, np.float32)}}
statistics = {"layer/kernel": from_rows(np.asarray(rows))}
lost = {}
for method in ("svd", "svd_llm"):
    leaf = compress(tree, method=method, budget=0.5, statistics=statistics).params["layer"]["kernel"]
    lost[method] = np.linalg.norm(leaf.matmul(rows) - rows @ kernel) / np.linalg.norm(rows @ kernel)
    print(
        f"{method}: {type(leaf).__name__} of rank {leaf.u.shape[-1]}; {100 * lost[method]:.0f} % of the output is lost"
    )
assert lost["svd_llm"] < lost["svd"]

# %% [markdown]
# Next: `allocation="spectrum"` gives ranks to the layers that need them; `experiments/compress.py` writes a run that trains
# on; `method="svfit"` makes nothing smaller but lets only singular values train; `CONTRIBUTING.md` writes a method of your own.
