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
# # Write a router of your own
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/your_own_router.ipynb)
#
# A router decides which expert sees which token. We write a new one in a single cell, check that it keeps its promises, put it into
# a vision transformer by naming it, and look at what it does. Nothing in the library's folders is touched. A CPU is enough.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("moejax") is None:  # on Colab
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/moejax/moejax"])

# %%
import dataclasses
import os
import tempfile
from typing import ClassVar

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from moejax.core.contracts import Router
from moejax.core.errors import SpecError
from moejax.core.plans import Routed, TokenChoice
from moejax.core.spec import build_method, build_spec
from moejax.data import opening
from moejax.dispatch import strategies
from moejax.evals import figure_style
from moejax.evals.map_figures import draw_map_sheet, map_sheet_size
from moejax.evals.map_sheets import choose, map_sheet
from moejax.evals.routing_figures import load_over_training
from moejax.evals.runs import find_runs
from moejax.routing.statistics import choice_load, router_metrics
from moejax.train.checkpoints import load_run
from moejax.train.loop import Train, run
from moejax.train.optimizers import Optimizer

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in ("", "0")  # two tiny steps, to test that this notebook runs
STEPS = 2 if SMOKE else 400
plt.rcParams.update(figure_style.STYLE)

# %% [markdown]
# ## What a router owes
#
# Tokens come in groups, an array `[G, S, D]`: G groups of S tokens of width D. A router turns them into a *plan*. The plan says for
# every token which experts it goes to and how much their answers weigh; others move the tokens and compute. So a router is short:
#
# | | |
# |---|---|
# | `num_experts`, `plan_type` | known before anything runs |
# | `causal` | may a decoder use it? True when no token's plan depends on later tokens |
# | `init(key, dim)` | parameters, which gradients train, and state, which they do not |
# | `route(params, state, x, key=None)` | the plan, losses to add, measurements, and the state afterwards |
#
# One convention: **a key means training**. Without one, `route` is deterministic and the state stays as it is.
#
# ## The idea
#
# Let each expert own a point in the space of the tokens, its *centre*. A token goes to the expert with the nearest centre, and the
# centres follow their tokens: k-means, while the model trains. Plain k-means has rich and poor clusters, so we give it a conscience:
# an expert with more than its share gets a handicap, which grows until it loses tokens. Centres and handicaps are learned by looking,
# not by gradients: they are state.

# %%


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestRouter:
    """Every token goes to the expert with the nearest centre, by cosine; centres follow the mean of their tokens.

    temperature: of the softmax over cosines that gives the weight. memory: how much of a centre stays at each training step.
    conscience: how fast an expert above its share of tokens gets a handicap (0: plain k-means).
    Source: online k-means with the conscience of DeSieno 1988.
    """

    plan_type: ClassVar[type] = TokenChoice

    num_experts: int
    temperature: float = 0.2
    memory: float = 0.95
    conscience: float = 0.01

    def __post_init__(self):
        if self.temperature <= 0:
            raise SpecError(
                f"temperature={self.temperature} must be positive; small ones trust the nearest centre alone."
            )

    @property
    def causal(self):
        """No token looks at another: yes."""
        return True

    def init(self, key, dim):
        """No parameters. State: centres [E D] of length one, and handicaps [E]."""
        centres = jax.random.normal(key, (self.num_experts, dim))
        return {}, {"centres": unit(centres), "handicap": jnp.zeros((self.num_experts,))}

    def route(self, params, state, x, *, key=None, token_ids=None):
        direction = unit(x.astype(jnp.float32))
        cosine = jnp.einsum("GSD,ED->GSE", direction, state["centres"])
        nearest = jnp.argmax(cosine - state["handicap"][None, None], axis=-1)
        probs = jax.nn.softmax(cosine / self.temperature)
        weight = jnp.take_along_axis(probs, nearest[..., None], axis=-1)
        plan = TokenChoice(nearest[..., None].astype(jnp.int32), weight, num_experts=self.num_experts)
        load = choice_load(nearest, self.num_experts)
        metrics = router_metrics(probs, load)
        return Routed(plan, {}, metrics, state if key is None else self.follow(state, direction, nearest, load))

    def follow(self, state, direction, nearest, load):
        """The state after a training step."""
        member = jax.nn.one_hot(nearest, self.num_experts)
        total = jnp.einsum("GSE,GSD->ED", member, direction)
        mean = jnp.where(load[:, None] > 0, unit(total), state["centres"])  # an idle expert waits where it is
        handicap = state["handicap"] + self.conscience * jnp.sign(load - 1 / self.num_experts)
        state = {"centres": unit(self.memory * state["centres"] + (1 - self.memory) * mean), "handicap": handicap}
        return jax.lax.stop_gradient(state)


def unit(x):
    """Rows of length one; a row of zeros stays zero, and its gradient finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


# %% [markdown]
# ## By hand
#
# Three centres and four tokens in the plane, few enough to know the answer. The picture shows the territories: first all experts are
# equal, then expert 0 has a handicap of 0.5: its borders give way, and it loses a token.

# %%
router = NearestRouter(num_experts=3)
centres = unit(jnp.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]]))
tokens = jnp.array([[[1.2, -0.7], [-1.2, 1.5], [-1.4, -1.5], [0.6, 0.8]]])
side = np.linspace(-2.2, 2.2, 120)
points = np.stack(np.meshgrid(side, side), axis=-1).reshape(1, -1, 2).astype(np.float32)
colours = figure_style.expert_colours(8) / 255.0

figure, panels = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
for panel, handicap in zip(panels, (0.0, 0.5), strict=True):
    state = {"centres": centres, "handicap": jnp.array([handicap, 0.0, 0.0])}
    owner = np.asarray(router.route({}, state, jnp.asarray(points)).plan.expert).reshape(120, 120)
    panel.imshow(colours[owner], extent=(-2.2, 2.2, -2.2, 2.2), origin="lower", alpha=0.45)
    chosen = np.asarray(router.route({}, state, tokens).plan.expert)[0, :, 0]
    for (x, y), expert in zip(np.asarray(tokens[0]), chosen, strict=True):
        panel.plot(x, y, "o", color=colours[expert], markeredgecolor="black", markersize=10)
        panel.annotate(f"to expert {expert}", (x, y), xytext=(9, 5), textcoords="offset points")
    for expert, (x, y) in enumerate(np.asarray(centres)):
        panel.annotate(str(expert), (x, y), ha="center", va="center", bbox={"boxstyle": "square", "facecolor": "white"})
    panel.set(title=f"handicap of expert 0: {handicap:g}", xlabel="first number of a token", ylabel="second")
    panel.grid(False)
plt.show()

before = router.route({}, {"centres": centres, "handicap": jnp.zeros(3)}, tokens)
assert before.plan.expert[0, :, 0].tolist() == [0, 1, 2, 0]

# %% [markdown]
# ## The laws
#
# The library checks every router in its folder with about twenty laws. Here are five of them, for ours. The strongest compares: a slow
# loop moves tokens by our plan, and every fast way of moving them must agree, in the values and in all gradients.

# %%
assert isinstance(router, Router), "num_experts, plan_type, causal, init, route"
params, state = router.init(jax.random.key(0), 16)
x = jax.random.normal(jax.random.key(1), (2, 12, 16))
experts = build_method("experts", {"name": "mlp", "expert_dim": 8})
bank = experts.init(jax.random.key(2), router.num_experts, 16)


def held(law, keeps):
    print(f"{'kept' if keeps else 'BROKEN':8}{law}")
    assert keeps


def near(a, b):
    return all(np.allclose(p, q, atol=1e-4) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


plan = router.route(params, state, x).plan
moved = {}
for strategy in strategies.strategies_for(router.plan_type):

    def answer(x, weight, bank, strategy=strategy):
        y = strategies.dispatch(strategy, plan.replace(weight=weight), x, bank, experts.apply)
        return jnp.sum(jnp.sin(y)), y

    both = jax.value_and_grad(answer, argnums=(0, 1, 2), has_aux=True)
    both = both if strategy == "reference" else jax.jit(both)  # the slow loop is plain Python
    moved[strategy] = both(x, plan.weight, bank)
for strategy in moved:
    held(f"dispatch {strategy!r} equals the slow loop", near(moved[strategy], moved["reference"]))

later = x.at[:, 6:].set(5.0)
early = [np.asarray(router.route(params, state, tokens).plan.expert[:, :6]) for tokens in (x, later)]
held("causal: other later tokens, same plan for the earlier ones", np.array_equal(*early))
held("without a key the state stays", near(router.route(params, state, x).state, state))
held("with a key it moves", not near(router.route(params, state, x, key=jax.random.key(3)).state, state))


def total(x):
    return jnp.sum(router.route(params, state, x).plan.weight)


gradients = [jax.grad(total)(scale * x) for scale in (0.0, 1.0, 1e6)]
held("gradients are finite, at zero and at a million too", all(np.isfinite(g).all() for g in gradients))

# %% [markdown]
# Break one to see it work: return `state` where `key` is given, or let `unit` divide by the plain length, and run both cells again.
#
# ## Into a model, by name
#
# A model is a dictionary until it is built. `"name": "top_k"` means the file `moejax/routing/top_k.py`; a name with a colon means a class
# that lives elsewhere, `module:Class`. This notebook is the module `__main__`. Its fields are checked like all others:

# %%
try:
    build_method("routing", {"name": "__main__:NearestRouter", "num_experts": 8, "temprature": 0.1})
except SpecError as error:
    print("SpecError:", error)

# %%
EXPERTS = 4 if SMOKE else 8
data_config = {
    "name": "patchwork",
    "batch_size": 8 if SMOKE else 128,
    "eval_batch_size": 32 if SMOKE else 256,
    "max_examples": 64 if SMOKE else None,
    "augment": {"pad_crop": {"pad": 3}},
}
data = opening.build(data_config)
runs = tempfile.mkdtemp()


def train(name, router):
    """Trains the quickstart's vision transformer with this router in its last two blocks."""
    config = {
        "name": name,
        "seed": 0,
        "model": {
            "name": "vit",
            "image_size": 32,
            "patch_size": 8,
            "dim": 16 if SMOKE else 64,
            "depth": 2 if SMOKE else 4,
            "num_heads": 4,
            "mlp_dim": 32 if SMOKE else 128,
            "num_classes": data.info.num_classes,
            "stem": "conv",
            "pooling": "avg",
            "moe_layers": "final2",
            "moe": {
                "router": {"num_experts": EXPERTS, **router},
                "experts": {"name": "mlp", "expert_dim": 32 if SMOKE else 128},
                "group_size": 128,
            },
        },
        "task": {"name": "classification"},
        "data": data_config,
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": STEPS // 10 + 1, "weight_decay": 0.05},
        "train": {
            "steps": STEPS,
            "log_every": 20,
            "eval_every": 1 if SMOKE else 25,
            "checkpoint_every": 0,
            "tensorboard": False,
        },
    }
    task = build_method("tasks", {**config["task"], "model": config["model"]})
    optimizer, loop = build_spec(Optimizer, config["optimizer"]), build_spec(Train, config["train"])
    folder = os.path.join(runs, name)
    row = run(task, data, optimizer, loop, workdir=folder, config=config, seed=config["seed"]).row
    _, params, state, _ = load_run(folder, which="last")  # the checkpoint knows our router by its name, too
    return task, params, state, row


# %% [markdown]
# Three models: V-MoE's router, which is a learned linear map with two losses that keep the load even; ours; and ours without its conscience.

# %%
found = {
    "top_k": train(
        "top_k",
        {"name": "top_k", "capacity_factor": 1.05, "importance_loss_weight": 0.005, "load_loss_weight": 0.005},
    ),
    "nearest": train("nearest", {"name": "__main__:NearestRouter"}),
}
if not SMOKE:
    found["no conscience"] = train("no conscience", {"name": "__main__:NearestRouter", "conscience": 0.0})

# %% [markdown]
# ## Who gets the tokens
#
# Each band is an expert, its height the share of the tokens. With a conscience the bands become even, without any loss to tune. Without
# one, the experts that are ahead stay ahead.

# %%
figure = plt.figure(figsize=(11, 2.6 * len(found) + 0.6), layout="constrained")
load_over_training(figure, find_runs(runs))
plt.show()

print(f"{'router':16}{'test accuracy':>14}{'busiest expert':>16}{'idlest expert':>15}   (last MoE layer)")
last = f"block_{found['top_k'][0].model.depth - 1:02d}/load"
for one in find_runs(runs):
    load = next(row[last] for row in reversed(one.rows) if last in row)
    accuracy = found[one.record.model][3]["test/accuracy"]
    print(f"{one.record.model:16}{100 * accuracy:13.1f}%{100 * max(load):15.1f}%{100 * min(load):14.1f}%")

# %% [markdown]
# One seed and few steps: a point or two of accuracy mean nothing. In our run V-MoE's router reached 62 %, ours 56 % and ours without conscience
# 59 %, with an expert that got no token at all. So an even load is not yet a good one, and a router that nobody trains pays some points for it.
#
# ## Who looks at what
#
# The number and colour of a patch are the expert that it went to; striped patches found their expert full (only V-MoE's router has a capacity here). In our run the
# trained router told the parts of a picture apart, and ours told pictures apart: the patches of one picture are alike by then, and go to one expert together. That is what the
# nearest centre sees. An exercise: with `"group_size": None` a group is one picture, and `x - x.mean(axis=1, keepdims=True)` takes away what all its patches
# share. (`causal` must be False then; the law above notices if you forget.)

# %%
rows = choose(data, "test", per_domain=1 if SMOKE else 3)
for name, (task, params, state, _) in found.items():
    sheet = map_sheet(name, task.model, params, state, data, rows)
    figure = plt.figure(figsize=map_sheet_size(sheet), layout="constrained")
    draw_map_sheet(figure, sheet)
    figure.suptitle(name)
    plt.show()

# %% [markdown]
# ## Keep it
#
# Save the class as `nearest.py` anywhere on `PYTHONPATH`, with its imports: `"name": "nearest:NearestRouter"` then works in every config, also on the
# command line. Or put the file into `moejax/routing/` with a last line `EXAMPLES = (NearestRouter(num_experts=3),)`: it is called
# `"nearest"` from then on, and `make test` holds it to all laws, with every dispatch strategy and every kind of expert. `CONTRIBUTING.md` tells the rest.
