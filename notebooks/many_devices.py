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
# # Experts on many devices
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/many_devices.ipynb)
#
# A model with many experts does not fit on one chip, so each chip keeps some of them and tokens travel. We play this with eight
# simulated devices: who sends what to whom, how many bytes, whether the numbers stay the same, and what happens when one expert is
# everybody's favourite. At the end we plan for machines that are not here. A CPU is enough.

# %%
import functools
import importlib.util
import os
import subprocess
import sys

# Before jax is imported: one CPU plays eight devices.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

if importlib.util.find_spec("moejax") is None:  # on Colab
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/moejax/moejax"])

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from moejax.core.spec import build_method, build_spec
from moejax.evals import figure_style
from moejax.exchange.row_counts import rows_by_source
from moejax.layers.moe import MoE
from moejax.models.sizes import VMOE, fields
from moejax.planning import chips, exchange_costs
from moejax.planning.collectives import collectives
from moejax.planning.exchange_costs import Layer
from moejax.planning.links import links_of
from moejax.planning.step import held
from moejax.planning.weak_scaling import work
from moejax.sharding.mesh import BATCH_AXES, MeshSpec
from moejax.sharding.rules import Rules, param_specs, shardings
from moejax.sharding.table import placed, table
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in (
    "",
    "0",
)  # fewer and smaller programs, to test that this notebook runs
plt.rcParams.update(figure_style.STYLE)
assert len(jax.devices()) == 8, "restart the kernel: jax was imported before the first cell ran"

# %% [markdown]
# ## A layer, and where it lies
#
# Sixteen experts, of which each token meets two. A mesh names the axes along which devices stand; ours has eight along `expert`. Rules
# say by the names of the parameters what is split: the experts' kernels are, the router is whole on every device.

# %%
D, F, E, K, TOKENS = 32, 64, 16, 2, 64


def layer(capacity_factor=1.25, **exchange):
    """An MoE layer; exchange: how its tokens reach other devices."""
    router = {"name": "top_k", "num_experts": E, "num_selected_experts": K, "noise_std": 0.0}
    return build_spec(
        MoE,
        {
            "router": router | {"capacity_factor": capacity_factor},
            "experts": {"name": "mlp", "expert_dim": F},
            "exchange": exchange or {"name": "all_to_all"},
        },
    )


mesh = MeshSpec(data=1, expert=8).build()
params, state = layer().init(jax.random.key(0), D)
where = shardings(params, param_specs({"moe": params}, Rules())["moe"], mesh)
print(table(placed(params, where)))
split_params = jax.device_put(params, where)

# %% [markdown]
# ## The same numbers
#
# Eight sequences of 64 tokens, one on each device. The code of the layer does not change: under `jax.set_mesh` it exchanges tokens. Output and all
# gradients are those of one device, up to rounding.

# %%
by_sequence = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
x = jax.random.normal(jax.random.key(1), (8, TOKENS, D))
split_x = jax.device_put(x, by_sequence)


def value_and_gradients(moe):
    """A compiled function of the parameters and tokens."""

    def loss(params, x):
        y = moe.apply(params, state, x).tokens
        return jnp.mean(y**2), y

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def difference(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(p) - np.asarray(q)).max()) for p, q in pairs)


alone = value_and_gradients(layer())(params, x)
with jax.set_mesh(mesh):
    together = value_and_gradients(layer())(split_params, split_x)
print(f"largest difference of an output or a gradient: {difference(alone, together):.1e}")
assert difference(alone, together) < 1e-5

# %% [markdown]
# ## Who sends what to whom
#
# The router's plan says it. Experts 0 and 1 live on device 0, and so on. The diagonal stays at home; on n devices only one token in n does. That is the
# price of spreading experts.

# %%
plan = layer().router.route(params["router"], state, x).plan
counts = np.asarray(rows_by_source(plan, mesh.abstract_mesh))[0]  # [device, expert]
traffic = counts.reshape(8, 8, E // 8).sum(-1)

figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.6), layout="constrained", width_ratios=(1.25, 1))
colours = figure_style.expert_colours(8) / 255.0
for source in range(8):
    for target in range(8):
        left.plot(
            (source, target),
            (1, 0),
            color=colours[target],
            linewidth=6 * traffic[source, target] / traffic.max(),
            alpha=0.5,
        )
for device in range(8):
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "#6b7785"}
    left.text(device, 1.08, f"device {device}\n{TOKENS} tokens", ha="center", fontsize=8.5, bbox=box)
    box["edgecolor"] = colours[device]
    left.text(device, -0.08, f"experts\n{2 * device}, {2 * device + 1}", ha="center", va="top", fontsize=8.5, bbox=box)
left.set(xlim=(-0.6, 7.6), ylim=(-0.35, 1.35), title="tokens travel to their experts")
left.axis("off")
right.imshow(traffic, cmap="Blues", vmin=0)
for (source, target), value in np.ndenumerate(traffic):
    right.text(
        target, source, value, ha="center", va="center", color="white" if value > 0.6 * traffic.max() else "black"
    )
right.set(xlabel="to device", ylabel="from device", title="rows sent", xticks=range(8), yticks=range(8))
right.grid(False)
plt.show()

# %% [markdown]
# ## How many bytes
#
# We do not guess: the compiled program lists its collectives, and we add up what a device sends, there and back. Beside it, by arithmetic, what
# the cost model says (crosses). `all_to_all` sends each token to its experts, in buffers of a fixed capacity; in int8 a number takes one byte
# instead of four. `all_gather` sends every token to every device, `ring` the same from neighbour to neighbour.

# %%
WAYS = {
    "all_to_all": {"name": "all_to_all"},
    "two_level": {"name": "all_to_all", "group": 2},
    "int8": {"name": "all_to_all", "wire_dtype": "int8"},
    "all_gather": {"name": "all_gather"},
    "ring": {"name": "ring"},
}
WAYS = {name: WAYS[name] for name in (("all_to_all", "ring") if SMOKE else WAYS)}
brought = Layer(tokens=TOKENS, choices=K, experts=E, slots=plan.capacity * E, width=D, number_bytes=4)
split_plan, experts = jax.device_put(plan, by_sequence), layer().experts
counted, by_model = {}, {}
for name, config in WAYS.items():
    exchange = build_method("exchange", config)
    with jax.set_mesh(mesh):
        forward = jax.jit(functools.partial(exchange.dispatch, "gather", apply=experts.apply))
        program = forward.lower(split_plan, split_x, split_params["experts"]).compile()
    counted[name] = sum(one.sent for one in collectives(program.as_text()))
    by_model[name] = sum(exchange_costs.sent(exchange_costs.phases(name, brought, 8, group=2)))

figure, axis = plt.subplots(figsize=(8, 0.5 * len(WAYS) + 1.4), layout="constrained")
axis.barh(list(WAYS), [size / 2**10 for size in counted.values()], color="#56b4e9", label="counted in the program")
axis.plot(
    [size / 2**10 for size in by_model.values()], list(WAYS), "x", color="black", markersize=9, label="cost model"
)
axis.set(xlabel="KiB that one device sends, forward", title="one layer on eight devices")
axis.invert_yaxis()
axis.legend()
plt.show()
assert counted == by_model

# %% [markdown]
# On eight devices `all_gather` sends over three times what the exchange sends. Its bytes grow with the number of devices, those of the exchange do not. Two levels send more
# bytes, in fewer and larger messages.
#
# ## A favourite expert
#
# Now all tokens lean towards what expert 0 likes. With a fixed capacity the expert fills up, and tokens are dropped. Without one nothing is
# dropped, but the device of expert 0 has more and more to do, and the others wait for it.
#
# `least_loaded` sends surplus rows, with the weights of their expert, to devices that have time.

# %%
favourite = params["router"]["kernel"][:, 0]
favourite = favourite / jnp.linalg.norm(favourite)
leanings = (0.0, 3.0) if SMOKE else (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
exchanges = {
    "all_to_all": build_method("exchange", {"name": "all_to_all"}),
    "least_loaded": build_method("exchange", {"name": "least_loaded", "min_rows": 8, "num_guests": 2}),
}
dropped, busiest, loads = [], {name: [] for name in exchanges}, {}
for leaning in leanings:
    leaning_x = x + leaning * favourite
    dropped.append(float(layer().apply(params, state, leaning_x).metrics["dropped"]))
    dropless = layer(None).router.route(params["router"], state, leaning_x).plan
    rows = rows_by_source(dropless, mesh.abstract_mesh)
    loads = {name: np.asarray(exchange.loads(rows))[0] for name, exchange in exchanges.items()}
    for name, load in loads.items():
        busiest[name].append(load.max() / load.mean())

STYLES = {"all_to_all": ("#0072b2", "o-"), "least_loaded": ("#d55e00", "s--")}
figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
panels[0].plot(leanings, 100 * np.asarray(dropped), "^-", color="#009e73")
panels[0].set(title="fixed capacity", xlabel="leaning towards expert 0", ylabel="choices dropped (%)", ylim=(0, None))
for offset, (name, (colour, line)) in enumerate(STYLES.items()):
    panels[1].plot(leanings, busiest[name], line, color=colour, label=name)
    panels[2].bar(np.arange(8) + 0.4 * (offset - 0.5), loads[name], width=0.4, color=colour, label=name)
panels[1].set(
    title="dropless: who waits", xlabel="leaning towards expert 0", ylabel="busiest device / mean", ylim=(0, None)
)
panels[2].axhline(loads["all_to_all"].mean(), color="black", linewidth=1, linestyle=":", label="mean")
panels[2].set(title=f"dropless, leaning {leanings[-1]:g}", xlabel="device", ylabel="rows to compute", xticks=range(8))
panels[1].legend()
panels[2].legend()
plt.show()

# %% [markdown]
# The outputs do not change with the place where they are computed:

# %%
alone = layer(None).apply(params, state, leaning_x).tokens
least_loaded = layer(None, name="least_loaded", min_rows=8, num_guests=2)
with jax.set_mesh(mesh):
    spread = jax.jit(lambda params, x: least_loaded.apply(params, state, x).tokens)
    found = spread(split_params, jax.device_put(leaning_x, by_sequence))
print(f"least_loaded against one device: {difference(alone, found):.1e}")
assert difference(alone, found) < 1e-4

# %% [markdown]
# ## More devices, more experts, the same work
#
# The reason for all this: give every new device experts of its own, and each device's work stays as it is while the model grows. Counted in
# the compiled gradient of one layer, nothing is run.

# %%
print(f"{'devices':>8}{'experts':>9}{'MFLOP per device':>18}{'KiB exchanged per device':>26}")
scaling = []
for n in (2, 4) if SMOKE else (2, 4, 8):
    router = {"name": "top_k", "num_experts": 2 * n, "num_selected_experts": K, "capacity_factor": 1.0}
    moe = build_spec(MoE, {"router": router, "experts": {"name": "mlp", "expert_dim": F}})
    scaling.append(work(jax.devices()[:n], moe, tokens=TOKENS, dim=D))
    print(f"{n:8}{2 * n:9}{scaling[-1].flops / 1e6:18.2f}{scaling[-1].exchanged / 2**10:26.0f}")

# %% [markdown]
# ## Machines that are not here
#
# How long would the exchange take on real machines? Bytes are exact, time is latency plus bytes over bandwidth, with the figures of data
# sheets. Nothing was run on these machines: read the curves for their shapes. The layer is one of V-MoE-H/14, 64 pictures on each device, one expert per
# device from 16 on; where the load matters (dropless) the busiest device has twice the mean. Dashed: the time that the experts need at the chip's peak.

# %%
COLOURS = {"all_to_all": "#0072b2", "two_level": "#56b4e9", "dropless": "#009e73", "int8": "#e69f00",
           "all_gather": "#d55e00", "ring": "#cc79a7"}  # fmt: skip
MARKERS = dict(zip(COLOURS, "osD^vP", strict=True))
devices = [2**power for power in range(3, 13)]
width, hidden, tokens = VMOE["H"].dim, VMOE["H"].mlp_dim, 64 * 257


def brings(n):
    experts = max(n, 16)
    slots = round(1.05 * tokens * K / experts) * experts
    return Layer(tokens=tokens, choices=K, experts=experts, slots=slots, width=width, number_bytes=2)


figure, panels = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained", sharey=True)
for panel, machine in zip(panels, ("h100", "v5e"), strict=True):
    links = links_of(machine)
    for name, colour in COLOURS.items():
        found = [exchange_costs.phases(name, brings(n), n, links.group) for n in devices]
        time = [exchange_costs.seconds(phases, links, n, skew=2.0) for phases, n in zip(found, devices, strict=True)]
        panel.loglog(devices, [1e3 * t for t in time], marker=MARKERS[name], color=colour, markersize=5, label=name)
    panel.axhline(1e3 * 4 * tokens * K * width * hidden / links.flops, color="black", linestyle="--", linewidth=1)
    panel.axvline(links.group, color="#6b7785", linestyle=":", linewidth=1)
    panel.text(links.group * 1.06, 0.96, "one group ends", transform=panel.get_xaxis_transform(), fontsize=9, va="top")
    panel.set(xlabel="devices along the expert axis", title=f"{machine}: one layer's exchange, forward")
    panel.set_xticks(devices[::2], [str(n) for n in devices[::2]])
    panel.minorticks_off()
    print(machine, *links.told(), sep="\n  ")
panels[0].set_ylabel("ms")
panels[1].legend()
plt.show()

# %% [markdown]
# Inside a group of close neighbours the exchange is cheap beside the experts. Across groups bytes count (int8 helps), and on very many devices so do messages
# (two levels help).
#
# ## Does it fit?
#
# V-MoE-H/14 with 32 experts in every second block, on 64 chips of 16 GB. What stays on a chip between steps (parameters and the optimiser's
# two averages) follows from shapes alone.

# %%
TOPOLOGY = "v5e:8x8"
config = {
    "name": "vit",
    **fields(VMOE, "S/32" if SMOKE else "H/14"),
    "num_classes": 1000,
    "moe_layers": "every2",
    "moe": {
        "router": {"name": "top_k", "num_experts": 32, "num_selected_experts": 2, "capacity_factor": 1.05},
        "experts": {"name": "mlp", "expert_dim": VMOE["S" if SMOKE else "H"].mlp_dim},
    },
}
task = build_method("tasks", {"name": "classification", "model": config})
meshes = [{"data": 64}, {"data": 2, "expert": 32}, {"data": 1, "fsdp": 2, "expert": 32}, {"data": 1, "fsdp": 64}]
kept = {}
for sizes in meshes[1:3] if SMOKE else meshes:
    spec = build_spec(MeshSpec, sizes)
    program = Program(
        task, build_spec(Optimizer, {}), build_spec(Train, {"steps": 1, "mesh": sizes}), seed=0, batch_size=1024,
        mesh=spec.abstract(chips.num_chips(TOPOLOGY)),
    )  # fmt: skip
    kept[", ".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1)] = held(program)

figure, axis = plt.subplots(figsize=(9, 0.55 * len(kept) + 1.6), layout="constrained")
start = np.zeros(len(kept))
for kind, colour in zip(("parameters", "optimiser"), ("#0072b2", "#e69f00"), strict=True):
    size = np.array([one.get(kind, 0) / 1e9 for one in kept.values()])
    axis.barh(list(kept), size, left=start, color=colour, label=kind)
    start += size
limit = chips.parse(TOPOLOGY)[0].memory / 1e9
axis.axvline(limit, color="black", linestyle="--", linewidth=1, label="memory of a chip")
axis.set(xlabel="GB on each chip", title="what stays between steps")
axis.invert_yaxis()
axis.legend()
plt.show()

# %% [markdown]
# Data parallelism alone cannot hold the experts; an expert axis does, and sends tokens where `fsdp` sends parameters. What the step needs besides (activations, and
# every collective) comes from compiling it for the real chips. That needs their compiler, not the chips:

# %%
if chips.can_compile(TOPOLOGY):
    print("The TPU's compiler is installed: experiments/plan.py compiles this step for real chips, in some minutes.")
else:
    print("The TPU's compiler is not installed here (pip install 'moejax[tpu-aot]'); nothing was compiled for TPUs.")

# %% [markdown]
# Next: `experiments/plan.py --config configs/vit/vmoe_paper.py:size=H/14 --topology v5p:4x4x4 --mesh data=2,expert=32` plans a whole step; `experiments/train.py`
# takes the same mesh as `--config.train.mesh.expert=8`; `moejax/placement` moves experts that are often chosen together onto one device.
