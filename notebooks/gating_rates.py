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
# # How fast can a gate be learned?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/moejax/moejax/blob/main/notebooks/gating_rates.ipynb)
#
# A mixture of experts is a statistical model, and its parameters are estimated from data. Ten times more data usually means errors
# that are $\sqrt{10}$ times smaller. For mixtures of experts this holds only as long as we know how many experts there are. With one
# expert too many, ten times more data may make an error smaller by a quarter. This notebook shows where the number $n^{-1/8}$ comes
# from, and checks it. A CPU is enough.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("moejax") is None:  # on Colab
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/moejax/moejax"])

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

from moejax.evals import figure_style
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.lattice import Lattice
from moejax.theory.polynomial_systems import r_bar
from moejax.theory.rates import rate
from moejax.theory.studies.exact_softmax import TRUTH, ExactSoftmax
from moejax.theory.studies.modulus import Modulus
from moejax.theory.studies.over_specified_softmax import OverSpecifiedSoftmax

SMOKE = os.environ.get("MOEJAX_SMOKE", "") not in ("", "0")  # few and small samples, to test that this notebook runs
plt.rcParams.update(figure_style.STYLE)
plt.rcParams["axes.prop_cycle"] = plt.cycler(
    color=["#0072b2", "#d55e00", "#009e73", "#cc79a7"]
)  # safe for colour-blind readers

# %% [markdown]
# ## Two experts
#
# Each expert is a line with noise around it. The gate, a softmax of two linear scores, says how likely each expert is at an input $x$:
#
# $$p(y \mid x) = \sum_i \frac{e^{\beta_{1i} x + \beta_{0i}}}{\sum_j e^{\beta_{1j} x + \beta_{0j}}}\; N(y \mid a_i x + b_i, \nu_i).$$
#
# The truth below is the one of the published simulations: the first expert takes over where $25 x > 8$.

# %%
draw = np.random.default_rng(0)
x = draw.uniform(0, 1, 400)
y = GaussianMoE().sample(TRUTH, x, draw)
grid = np.linspace(0, 1, 100)
with jax.enable_x64(True):
    gates = np.exp(np.asarray(GaussianMoE().log_gates(jax.tree.map(jax.numpy.asarray, TRUTH), jax.numpy.asarray(grid))))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
left.plot(x, y, ".", color="#6b7785", markersize=3)
for expert, colour in enumerate(("#d55e00", "#0072b2")):
    left.plot(grid, TRUTH["weight"][expert] * grid + TRUTH["bias"][expert], color=colour)
    right.plot(grid, gates[:, expert], color=colour, label=f"expert {expert + 1}")
left.set(xlabel="x", ylabel="y", title="data and the two experts")
right.set(xlabel="x", title="probability of each expert")
right.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What can be estimated at all?
#
# Adding the same line to both scores changes nothing: softmax sees differences only. Fisher's information says so. It tells how much one
# observation says about each direction of the parameters; an eigenvalue of zero is a direction about which data say nothing. Two are
# zero here, one for the intercepts and one for the slopes. We hold the scores of the last expert at zero, and every other direction
# has information.

# %%
smooth = {
    "gate": {"kernel": np.array([[1.0, 0.0]]), "bias": np.array([0.0, 0.0])},
    "weight": np.array([1.0, -1.0]),
    "bias": np.array([2.0, -2.0]),
    "log_variance": np.log([0.25, 0.36]),
}
cells = Lattice(num_inputs=12, responses=(-6.6, 6.6))
with jax.enable_x64(True):
    log_density = np.asarray(
        GaussianMoE().log_density(
            jax.tree.map(jax.numpy.asarray, smooth), jax.numpy.asarray(cells.x), jax.numpy.asarray(cells.y)
        )
    )
information = GaussianMoE().fisher_information(smooth, cells.x, cells.y, cells.probabilities(log_density))
eigenvalues = np.linalg.eigvalsh(information)
print("eigenvalues of the information:", ", ".join(f"{value:.1e}" for value in eigenvalues))

# %% [markdown]
# ## As many experts as the truth has
#
# For growing $n$ we draw many samples, find the maximum of the likelihood by Newton's method, and look at the Voronoi loss $D_1$: the
# sum of the errors of all parameters, weighted by the masses of the experts. The slope in logarithms is the rate.

# %%
exact = (
    ExactSoftmax(sizes=(200, 400, 800), replicates=5)
    if SMOKE
    else ExactSoftmax(sizes=(1000, 3162, 10_000, 31_623), replicates=20)
)
raw = {part: exact.estimates(part) for part in exact.parts}
errors = {n: exact.errors(raw[str(n)]) for n in exact.sizes}
found = rate({n: errors[n]["D1"] for n in exact.sizes})
print(f"slope of D1: {found.slope:.2f}, 95 % interval [{found.interval[0]:.2f}, {found.interval[1]:.2f}]; theory: -0.5")

figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name in ("D1", "weight 2", "bias 2", "variance 2"):
    axes.loglog(exact.sizes, [errors[n][name].mean() for n in exact.sizes], "o-", label=name)
axes.loglog(exact.sizes, found.constant * np.array(exact.sizes) ** -0.5, "k:", label="slope -1/2")
axes.set(xlabel="n", ylabel="mean error", title="two experts for two")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## One expert too many
#
# Now the fit has three experts for two true ones. Two of them must share a true one, and there is no reason why they should agree. Let
# one sit at $b + t$ and the other at $b - t$, with half the mass each. The mean of the pair is right. Its variance is too large by
# $t^2$, so both make their own variance smaller by $t^2$. The third moment is right by symmetry. The fourth is not: nothing is left
# to repair it. The density has moved by about $t^4$ only.
#
# The polynomial system of Ho and Nguyen asks how long such repairs can go on, for cells of $m$ atoms. The answer is computed here.

# %%
for atoms in (1, 2) if SMOKE else (1, 2, 3):
    print(f"{atoms} atoms in a cell: the density sees their distance to the power {r_bar(atoms)}")

# %% [markdown]
# We can watch it. Hold one of two atoms at a distance $t$ in one of its numbers, let everything else adapt, and measure how far the
# density is from the truth. No data are involved. Near zero the line of the bias has slope 4, the others slope 2.

# %%
modulus = Modulus(distances=(0.42, 0.3, 0.21)) if SMOKE else Modulus()
moved = {part: modulus.estimates(part) for part in modulus.parts}
figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for part, values in moved.items():
    exponent = modulus.exponents(values)[-1]
    axes.loglog(modulus.distances, np.sqrt(values["kl"]), "o-", label=f"{part.replace('-', ' ')}: {exponent:.2f}")
axes.set(xlabel="distance t of one atom", ylabel="square root of KL", title="how little the density moves")
axes.legend(frameon=False, title="last slope")
plt.show()

# %% [markdown]
# A density is estimated at $n^{-1/2}$, whatever the parameters do. If it moves by $t^4$ then $t$ is known to $n^{-1/8}$: for one more digit
# one needs $10^8$ times the data. That is why simulations with up to $10^5$ examples cannot show it. Here the inputs and responses lie on
# a lattice, the data are counts, and $n$ can be $10^{10}$ at the cost of $10^4$.
#
# The likelihood has maxima of two shapes: the atoms part in location, as above, or in variance. Only the first shows $n^{-1/8}$,
# so we look at the replicates of each shape by themselves.

# %%
over = (
    OverSpecifiedSoftmax(sizes=(10**6, 10**7, 10**8), replicates=6, iterations=20)
    if SMOKE
    else OverSpecifiedSoftmax(sizes=(10**6, 10**7, 10**8, 10**9, 10**10), replicates=24)
)
fits = {part: over.estimates(part) for part in over.parts}
errors = {n: over.errors(fits[str(n)]) for n in over.sizes}
parted = {n: over.in_location(fits[str(n)]) for n in over.sizes}

figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
sizes = np.array(over.sizes, float)
axes.loglog(sizes, [np.nanmedian(errors[n]["D2"]) for n in over.sizes], "o-", label="D2")
shown = [n for n in over.sizes if np.isfinite(errors[n]["bias, split cell"][parted[n]]).any()]
bias = [np.nanmedian(errors[n]["bias, split cell"][parted[n]]) for n in shown]
axes.loglog(shown, bias, "s-", label="bias, atoms parted in location")
if shown:
    axes.loglog(sizes, bias[0] * (sizes / shown[0]) ** (-1 / 8), "k:", label="slope -1/8")
axes.set(xlabel="n", ylabel="median error", title="three experts for two")
axes.legend(frameon=False)
plt.show()

for finding in over.findings(fits):
    low, high = finding.interval
    print(f"{finding.expected.quantity:32s} {finding.measured:6.2f} [{low:.2f}, {high:.2f}]  {finding.verdict}")

# %% [markdown]
# The loss $D_2$, which counts each error to the power that the theory gives it, falls at $n^{-1/2}$; the bias falls at $n^{-1/8}$.
#
# Where to go from here: `make theory` runs all studies of `configs/theory` and writes a page with every claim, what was measured, and the
# verdict. Among them are gates whose parameters cannot be estimated at all (a temperature behind a linear router), gates that do better than
# the softmax, and a published slope that is the work of a stopping rule.
