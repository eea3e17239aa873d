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
# # A mixture of experts in ten minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/quickstart.ipynb)
#
# In a mixture of experts a layer has several small networks, the *experts*, where another model has one. A *router* sends each piece of
# the input, a *token*, to one or a few of them. The model has many parameters, and uses few of them at a time.
#
# We train a small vision transformer whose feed-forward layers are mixtures of experts, look at which expert processed which
# part of which picture, and then swap the router by changing one entry of a dictionary. A CPU is enough.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("moejax") is None:  # on Colab
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/moejax/moejax"])

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from moejax.core.spec import build_method, build_spec
from moejax.data import opening
from moejax.evals import figure_style
from moejax.evals.map_figures import draw_map_sheet, draw_samples, map_sheet_size
from moejax.evals.map_sheets import choose, map_sheet, samples
from moejax.train.checkpoints import load_run
from moejax.train.loop import Train, run
from moejax.train.optimizers import Optimizer

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in ("", "0")  # two tiny steps, to test that this notebook runs
STEPS = 2 if SMOKE else 400
plt.rcParams.update(figure_style.STYLE)

# %% [markdown]
# ## The pictures
#
# `patchwork` comes with the package: 29 classes in three domains, all 32x32 in colour. Experts have something to
# specialise in, if they want to.

# %%
data_config = {
    "name": "patchwork",
    "batch_size": 8 if SMOKE else 128,
    "eval_batch_size": 32 if SMOKE else 256,
    "max_examples": 64 if SMOKE else None,
    "augment": {"pad_crop": {"pad": 3}},
}
data = opening.build(data_config)
print(data.info.split_sizes, data.info.domain_names)

figure = plt.figure(figsize=(10, 5), layout="constrained")
draw_samples(figure, samples(data, per_domain=12))
plt.show()

# %% [markdown]
# ## The model, as data
#
# Everything is a dictionary until it is built: `router`, `experts` and `dispatch` are names of files in
# `moejax/routing`, `moejax/experts` and `moejax/dispatch`, the other keys are fields of what those files define. A typing
# error is answered with the name that was meant, before anything is compiled.

# %%
EXPERTS = 4 if SMOKE else 8


def model_config(router):
    """A ViT of 4 blocks, with this router in the last two. Picture 32x32, patch 8: 16 tokens."""
    return {
        "name": "vit",
        "image_size": 32,
        "patch_size": 8,
        "dim": 16 if SMOKE else 64,
        "depth": 4,
        "num_heads": 4,
        "mlp_dim": 32 if SMOKE else 128,
        "num_classes": data.info.num_classes,
        "stem": "conv",
        "pooling": "avg",
        "moe_layers": "final2",
        "moe": {
            "router": {"num_experts": EXPERTS, **router},
            "experts": {"name": "mlp", "expert_dim": 32 if SMOKE else 128},
            "group_size": None if router["name"] == "soft" else 128,  # tokens of 8 pictures share the experts' slots
        },
    }


def train(name, router):
    """Trains a model with this router; returns the task, its parameters and router state, and the final measurements."""
    config = {
        "name": name,
        "seed": 0,
        "model": model_config(router),
        "task": {"name": "classification"},
        "data": data_config,
        "optimizer": {
            "name": "adamw",
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": STEPS // 10 + 1,
            "weight_decay": 0.05,
        },
        "train": {"steps": STEPS, "log_every": 20, "eval_every": 0, "checkpoint_every": 0, "tensorboard": False},
    }
    task = build_method("tasks", {**config["task"], "model": config["model"]})
    optimizer, loop = build_spec(Optimizer, config["optimizer"]), build_spec(Train, config["train"])
    result = run(task, data, optimizer, loop, workdir=os.path.join(runs, name), config=config, seed=config["seed"])
    _, params, state, _ = load_run(os.path.join(runs, name), which="last")
    return task, params, state, result.row


runs = tempfile.mkdtemp()
found = {}

# %% [markdown]
# ## Train
#
# V-MoE's router: every token goes to its best expert; experts take 1.05 times their fair share of tokens at most, and tokens
# that find no place pass by on the residual path. Two small losses keep the load even.

# %%
found["top_k"] = train(
    "top_k",
    {"name": "top_k", "capacity_factor": 1.05, "importance_loss_weight": 0.005, "load_loss_weight": 0.005},
)
row = found["top_k"][3]
print({key: round(value, 3) for key, value in row.items() if key.startswith("test/accuracy")})

# %% [markdown]
# ## Which expert looked at what
#
# The assignments that really happened, after capacity. One row per MoE layer, one colour per expert; striped patches
# were dropped.

# %%
rows = choose(data, "test", per_domain=1 if SMOKE else 3)


def draw_maps(name):
    task, params, state, _ = found[name]
    sheet = map_sheet(name, task.model, params, state, data, rows)
    figure = plt.figure(figsize=map_sheet_size(sheet), layout="constrained")
    draw_map_sheet(figure, sheet)
    figure.suptitle(name)
    plt.show()


draw_maps("top_k")

# %% [markdown]
# ## Swap the router
#
# One entry changes. With expert choice every expert picks its tokens (no expert idles, a token may get several experts or
# none); with Soft MoE every expert gets weighted averages of all tokens of a picture, and nothing is dropped.

# %%
found["expert_choice"] = train("expert_choice", {"name": "expert_choice", "capacity_factor": 1.0})
draw_maps("expert_choice")

# %%
found["soft"] = train("soft", {"name": "soft", "num_slots": 16 // EXPERTS})
draw_maps("soft")

# %% [markdown]
# ## Compare
#
# One seed and a few hundred steps: differences of a point or two mean nothing. The demo (`make demo`) trains longer, with a
# dense model of equal activated compute beside these, and draws standard errors.

# %%
print(f"{'router':14}{'all':>8}" + "".join(f"{name:>12}" for name in data.info.domain_names))
for name, (_, _, _, row) in found.items():
    domains = [row.get(f"test/accuracy/{domain}", float("nan")) for domain in data.info.domain_names]
    print(f"{name:14}{100 * row['test/accuracy']:8.1f}" + "".join(f"{100 * value:12.1f}" for value in domains))
    assert np.isfinite(row["test/loss"] if "test/loss" in row else row["test/accuracy"])

# %% [markdown]
# Next: `router={"name": "merge"}` averages the experts' parameters instead of moving tokens; `"experts": {"name": "swiglu", ...}`
# changes what an expert is. Other notebooks: [write a router of your own](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/your_own_router.ipynb),
# [make a trained model smaller](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/smaller_experts.ipynb),
# [draw pictures](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/dit_moe.ipynb),
# [use many devices](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/many_devices.ipynb).
