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
# # From noise to picture, with experts
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/dit_moe.ipynb)
#
# A diffusion model makes a picture out of noise, a little at a time. First we watch this in a world of points, where the perfect
# answer is known. Then we train a small diffusion transformer with experts (DiT-MoE) on photographs of garments, let it draw, turn up its
# guidance, and look at which expert works when and where. A CPU is enough.

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
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from moejax.core.spec import build_method, build_spec
from moejax.data import opening
from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.guidance import Guidance, guided
from moejax.diffusion.predictions import noised
from moejax.evals import figure_style
from moejax.evals.expert_usage import Watcher, time_grid
from moejax.evals.picture_grid import tile
from moejax.evals.sampling import Generator, labels_of, to_bytes
from moejax.evals.usage_figures import image_size, over_image, over_time, tells, time_size
from moejax.evals.usage_information import information
from moejax.train.checkpoints import load_run
from moejax.train.loop import Train, run
from moejax.train.optimizers import Optimizer

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in ("", "0")  # two tiny steps, to test that this notebook runs
STEPS = 2 if SMOKE else 1000
plt.rcParams.update(figure_style.STYLE)

# %% [markdown]
# ## A world of points
#
# Examples are points in the plane, of two classes. Time runs from 0, the data, to 1, pure noise: $x_t = (1 - t)\,x_0 + t\,\varepsilon$.
# The process is called a rectified flow. All that a network has to learn is one question: *given $x_t$, what were $x_0$ and
# $\varepsilon$, on average?* For mixtures of Gaussians the answer is a formula, so here nothing is trained.

# %%
angle = 2 * np.pi * np.arange(6) / 6
ring = np.stack([2.0 * np.cos(angle), 2.0 * np.sin(angle)], axis=1).astype(np.float32)
own = [0, 1, 3]  # the Gaussians of class A; the others are of class B


def mixture(which):
    count = len(which)
    return GaussianMixture(
        weights=jnp.full((count,), 1 / count), means=jnp.asarray(ring[which]), stds=jnp.full((count,), 0.25)
    )


everything, class_a = mixture(list(range(6))), mixture(own)
flow = build_method("diffusion.processes", {"name": "rectified_flow"})
points = everything.sample(jax.random.key(0), 400)
noise = jax.random.normal(jax.random.key(1), points.shape)

figure, panels = plt.subplots(1, 5, figsize=(13, 3), sharex=True, sharey=True, layout="constrained")
for panel, t in zip(panels, (0.0, 0.25, 0.5, 0.75, 1.0), strict=True):
    x = np.asarray(noised(flow, points, noise, jnp.full((len(points),), t)))
    panel.plot(x[:, 0], x[:, 1], ".", color="#0072b2", markersize=3)
    panel.set(title=f"time {t:g}", xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
plt.show()

# %% [markdown]
# Sampling goes the other way. We start from noise, ask the question, take a small step in the direction of the answer, and ask again. Left:
# the ways of some points to the data.
#
# In the middle we ask for class A. Right: the same with *guidance* 4: from the answer for class A we subtract the answer for anything at
# all, and go further along the difference. Points now keep away from places that the other class shares. They are surer and less varied.

# %%
sampler = build_method("diffusion.samplers", {"name": "heun", "num_steps": 4 if SMOKE else 30})
start = jax.random.normal(jax.random.key(2), (150, 2))
any_point, of_class_a = everything.denoiser(flow), class_a.denoiser(flow)
worlds = {
    "anything": any_point,
    "class A": of_class_a,
    "class A, guidance 4": guided(of_class_a, any_point, Guidance(scale=4.0), flow),
}
figure, panels = plt.subplots(1, 3, figsize=(12, 4.4), sharex=True, sharey=True, layout="constrained")
for panel, (name, denoiser) in zip(panels, worlds.items(), strict=True):
    way = np.asarray(sampler.sample(flow, denoiser, start, record=True).path)
    panel.plot(way[:, :60, 0], way[:, :60, 1], color="#6b7785", linewidth=0.6)
    panel.plot(way[0, :, 0], way[0, :, 1], ".", color="#6b7785", markersize=4, label="noise")
    panel.plot(way[-1, :, 0], way[-1, :, 1], ".", color="#d55e00", markersize=5, label="samples")
    for i, centre in enumerate(ring):
        panel.plot(*centre, "+" if i in own else "x", color="black", markersize=10)
    panel.set(title=name, aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
panels[0].legend(loc="upper left")
panels[1].annotate("+ class A   x class B", (0.03, 0.03), xycoords="axes fraction")
plt.show()

# %% [markdown]
# ## The garments
#
# Real photographs, 28x28, ten classes; they come with the package. The same process turns them into noise.

# %%
data_config = {
    "name": "fashion_mnist_12k",
    "batch_size": 8 if SMOKE else 64,
    "eval_batch_size": 32 if SMOKE else 250,
    "max_examples": 64 if SMOKE else None,
    "channels": 1,
    "value_range": "-1_1",
}
data = opening.build(data_config)
classes = data.info.class_names
images, labels = data.examples("test")
shown = np.array([np.flatnonzero(labels == c)[0] for c in sorted(set(labels.tolist()))])
clean = jnp.asarray(data.normalise(images[shown]))
hidden = jax.random.normal(jax.random.key(0), clean.shape)
times = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
strip = [to_bytes(noised(flow, clean, hidden, jnp.full((len(clean),), t))) for t in times]

figure, panel = plt.subplots(figsize=(9, 5.4), layout="constrained")
panel.imshow(tile(np.concatenate(strip), len(shown)), interpolation="nearest")
panel.set_yticks([15 + 30 * i for i in range(len(times))], [f"{t:g}" for t in times])
panel.set_xticks([15 + 30 * i for i in range(len(shown))], [classes[c] for c in labels[shown]], rotation=30, ha="right")
panel.set(ylabel="time", title="pictures become noise")
panel.grid(False)
plt.show()

# %% [markdown]
# ## A transformer with experts
#
# A DiT cuts the noised picture into patches and says what noise hides in each, given the time and the class. In every block the
# feed-forward layer is a mixture: each patch passes one shared expert, which serves all, and two of the routed ones. A loss keeps
# the load even. One label in ten is hidden in training, so that the same network also learns the answer for "anything", which guidance needs.

# %%
EXPERTS = 4 if SMOKE else 8
config = {
    "name": "dit_moe",
    "seed": 0,
    "model": {
        "name": "dit",
        "image_size": 28,
        "patch_size": 4,
        "channels": 1,
        "dim": 16 if SMOKE else 64,
        "depth": 2 if SMOKE else 3,
        "num_heads": 2 if SMOKE else 4,
        "mlp_dim": 32 if SMOKE else 256,
        "num_classes": 10,
        "label_dropout": 0.1,
        "moe_layers": "all",
        "moe": {
            "router": {
                "name": "top_k",
                "num_experts": EXPERTS,
                "num_selected_experts": 2,
                "noise_std": 0.0,
                "balance_loss_weight": 0.01,
                "balance_groups": "together",
            },
            "experts": {"name": "mlp", "expert_dim": 16 if SMOKE else 64},
            "shared": {"name": "mlp", "expert_dim": 16 if SMOKE else 128},
        },
    },
    "task": {
        "name": "diffusion",
        "process": {"name": "rectified_flow", "time": "logit_normal"},
        "prediction": "flow",
    },
    "data": data_config,
    "optimizer": {"learning_rate": 2e-3, "warmup_steps": STEPS // 20 + 1, "b2": 0.99, "weight_decay": 0.0},
    "train": {
        "steps": STEPS,
        "ema_decay": 0.99,
        "log_every": 50,
        "eval_every": 0,
        "checkpoint_every": 0,
        "best_metric": "valid/loss",
        "best_mode": "min",
        "tensorboard": False,
    },
}
task = build_method("tasks", {**config["task"], "model": config["model"]})
optimizer, loop = build_spec(Optimizer, config["optimizer"]), build_spec(Train, config["train"])
folder = tempfile.mkdtemp()
row = run(task, data, optimizer, loop, workdir=folder, config=config, seed=config["seed"]).row
_, params, state, _ = load_run(folder, which="last")
print({key: round(value, 3) for key, value in row.items() if key.startswith("test/loss")})

# %% [markdown]
# The loss by quarters of the time, data first: the question is easy in the middle, and hard at both ends, where noise is nearly invisible or all there is.
#
# ## Noise becomes a picture
#
# Above what the model has in hand, below what it believes the picture to be at that moment. Outlines come first, and details late.

# %%
sampler = build_method("diffusion.samplers", {"name": "dpm_solver_pp", "num_steps": 4 if SMOKE else 20})
EACH = 1 if SMOKE else 3
wanted = labels_of(range(10), EACH)


def generator(scale):
    return Generator(task, params, state, sampler, Guidance(scale=scale), batch_size=len(wanted))


sampled = generator(2.5).sample(wanted, seed=0, record=True)
kept = np.unique(np.linspace(0, sampler.num_steps - 1, 9).round().astype(int))
garments = [0, 5, 7, 8]
rows = [np.stack([source[i, c * EACH] for i in kept]) for c in garments for source in (sampled.path, sampled.estimates)]
at = sampler.times(task.process)

figure, panel = plt.subplots(figsize=(8.5, 7.4), layout="constrained")
panel.imshow(tile(to_bytes(np.concatenate(rows)), len(kept)), interpolation="nearest")
panel.set_xticks([15 + 30 * i for i in range(len(kept))], [f"{at[i]:.2f}" for i in kept])
names = [text for c in garments for text in (f"{classes[c]}: in hand", "believed")]
panel.set_yticks([15 + 30 * i for i in range(len(names))], names)
panel.set(xlabel="time: 1 is noise, 0 the picture", title="denoising, guidance 2.5")
panel.grid(False)
plt.show()

# %% [markdown]
# ## Guidance
#
# The same noise at three scales. At 1 the model just answers for the class. Larger scales give clearer garments with more contrast, and fewer
# kinds of them, as in the world of points. (A small network after a thousand steps: its patches still show.)

# %%
SCALES = (2.5,) if SMOKE else (1.0, 2.5, 6.0)
figure, panels = plt.subplots(
    1, len(SCALES), figsize=(0.75 * EACH * len(SCALES) + 1.6, 7.8), layout="constrained", squeeze=False
)
for panel, scale in zip(panels[0], SCALES, strict=True):
    found = sampled if scale == 2.5 else generator(scale).sample(wanted, seed=0)
    panel.imshow(tile(to_bytes(found.x), EACH), interpolation="nearest")
    panel.set(title=f"scale {scale:g}", xticks=[])
    panel.set_yticks([15 + 30 * i for i in range(10)], classes if scale == SCALES[0] else [""] * 10)
    panel.grid(False)
    panel.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# ## Which expert works when
#
# We noise real pictures to several levels and count who is chosen. Purple and orange are against an even share: 2 means twice as often.
# Sampling goes from right to left.

# %%
watcher = Watcher(task.model, task.process, params, state)
levels = time_grid(task.process, 3 if SMOKE else 10)
usage = watcher.noised_pictures(data.eval_batches("test"), times=levels, max_pictures=32 if SMOKE else 250)

figure = plt.figure(figsize=time_size(usage), layout="constrained")
over_time(figure, usage, title="experts over the noise level")
plt.show()

# %% [markdown]
# ## And where
#
# A panel is a picture of 7x7 patches: where in the picture the expert is used.

# %%
figure = plt.figure(figsize=image_size(usage), layout="constrained")
over_image(figure, usage, title="experts over the picture")
plt.show()

# %% [markdown]
# ## Did it learn that?
#
# A router that nobody trained also goes by place, since every place has its own vector. So we ask how many bits the expert's number tells
# about place, time and class, beyond what shuffled pictures tell, before and after training. The published study of DiT-MoE finds that experts
# prefer places and times to classes. With so few pictures and steps, see for yourself. In our run place went from 0.22 to 0.50 bits, time from 0.04 to 0.14, class
# from 0.01 to 0.12: place first, as published, time and class alike.

# %%
fresh = Watcher(task.model, task.process, *task.init(jax.random.key(0)))
untrained = fresh.noised_pictures(data.eval_batches("test"), times=levels, max_pictures=32 if SMOKE else 250)
usages = {"before training": untrained, "after training": usage}
bits = {name: information(one, draws=20) for name, one in usages.items()}

figure = plt.figure(figsize=(13, 4.4), layout="constrained")
tells(figure, usages, bits)
top = max(panel.get_ylim()[1] for panel in figure.axes[:2])
for panel in figure.axes[:2]:
    panel.set_ylim(top=top)
plt.show()

for name, found in bits.items():
    told = ", ".join(f"{kind} {one.excess.mean():.2f}" for kind, one in found.items())
    print(f"{name:16} bits, mean of the layers: {told}")
    assert all(np.isfinite(one.bits).all() for one in found.values())

# %% [markdown]
# Next: `make demo-diffusion` trains longer, scores 500 samples with a classifier and writes an animation; `configs/dit/garments.py` has the
# recipe and what was measured; `"router": {"name": "time_groups", ...}` gives each range of noise levels experts of its own.
