"""Two clusters whose easy signals cancel: a mixture of experts tells them apart and learns, where one network sees nothing for long.

In cluster c = 1 or -1 inputs are normal around 3 c v, and responses c He2(u x) + He4(w_c x): over both clusters the signal of low order
is gone, within one it is there.
Source: Kawata et al. 2025 ("Mixture of experts provably detect and learn the latent cluster structure in gradient-based learning"),
    the model of section 2 with two clusters.
Deviations: the paper proves rates of a training in phases and has no such table; here all parameters are trained together by one pass of
    Adam, Hermite polynomials have unit variance, and the dimension is small.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.theory.findings import Chart, Expected, Finding, untestable
from moejax.theory.over_seeds import check_seeds, mean_finding, seed_curve, share_finding
from moejax.theory.studies.contract import Raw

MODELS = ("network", "mixture")
_DIRECTIONS = 4  # v, u, w of cluster 1, w of cluster -1: the first axes, as every start is symmetric under rotations
_NUM_CLUSTERS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterStructure:
    """dim: of inputs; width: ReLU units of the network, and of all experts together. broken: share of the responses' variance at which
    the plateau ends: the error has fallen below it. Raises SpecError for fewer than 3 seeds, widths that experts cannot share equally,
    and records that do not divide the steps.
    """

    dim: int = 20
    width: int = 128
    num_experts: int = 4
    steps: int = 4000
    record_every: int = 25
    batch: int = 256
    num_test: int = 2000
    learning_rate: float = 3e-3
    separation: float = 3.0
    noise: float = 0.1
    broken: float = 0.8
    num_seeds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds(self.num_seeds)
        if self.width % self.num_experts or self.steps % self.record_every or self.dim < _DIRECTIONS:
            raise SpecError(
                f"num_experts={self.num_experts} must divide width={self.width}, record_every={self.record_every} steps={self.steps}, and "
                f"dim={self.dim} be at least {_DIRECTIONS}."
            )

    @property
    def claim(self) -> str:
        return "A mixture of experts trained by stochastic gradients finds clusters, and learns in them, where one network does not."

    @property
    def protocol(self) -> str:
        return (
            f"{self.dim} dimensions, {self.steps} batches of {self.batch} new examples, a ReLU network of {self.width} units against "
            f"{self.num_experts} experts of {self.width // self.num_experts} under a top-1 linear router, {self.num_seeds} seeds."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        return (
            Expected(
                quantity="router accuracy",
                value=1.0,
                tolerance=0.05,
                why="share of inputs whose expert is of their cluster",
            ),
            Expected(
                quantity="mixture first off the plateau",
                value=1.0,
                tolerance=0.0,
                why="share of seeds in which the mixture's error falls below the plateau at an earlier record than the network's",
            ),
            Expected(
                quantity="mixture ends lower",
                value=1.0,
                tolerance=0.0,
                why="share of seeds in which the mixture's error at the end is below the network's",
            ),
            Expected(
                quantity="mixture finds the directions",
                value=1.0,
                tolerance=0.0,
                why="share of seeds in which the mixture's units overlap more with the directions of the clusters at the end",
            ),
            Expected(
                quantity="times earlier",
                value=5.0,
                tolerance=2.5,
                why="steps of the network to the end of the plateau over those of the mixture; the last step where the plateau does not end",
            ),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return MODELS

    def estimates(self, part: str) -> Raw:
        """At every record [R P]: 'error', of the responses' variance, 'overlap' with the directions of the clusters, and 'accuracy' of the
        router, NaN for the network.
        """
        keys = jax.random.split(jax.random.key(self.seed), self.num_seeds)
        num_experts = self.num_experts if part == "mixture" else 1
        run = jax.jit(lambda keys: jax.lax.map(functools.partial(_train, study=self, num_experts=num_experts), keys))
        return {name: np.asarray(values) for name, values in run(keys).items()}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        kept = np.isfinite(raw["network"]["error"][:, -1]) & np.isfinite(raw["mixture"]["error"][:, -1])
        failed = int(np.sum(~kept))
        if failed == len(kept):
            return tuple(untestable(one, "training diverged in every seed.", failed=failed) for one in self.expected)
        network, mixture = ({name: values[kept] for name, values in raw[model].items()} for model in MODELS)
        early, late = self.plateau_ends(mixture["error"]), self.plateau_ends(network["error"])
        # A model that stays on its plateau counts with the last step: of the mixture that is too little, of the network as well.
        ratio = np.minimum(late, self.steps) / np.minimum(early, self.steps)
        accuracy, first, lower, directions, times = self.expected
        return (
            mean_finding(accuracy, np.where(kept, raw["mixture"]["accuracy"][:, -1], np.nan)),
            share_finding(first, early < late, failed=failed),
            share_finding(lower, mixture["error"][:, -1] < network["error"][:, -1], failed=failed),
            share_finding(directions, mixture["overlap"][:, -1] > network["overlap"][:, -1], failed=failed),
            mean_finding(times, ratio),
        )

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        steps = self._steps()
        curves = [seed_curve(f"error, {name}", steps, raw[name]["error"]) for name in MODELS]
        curves += [seed_curve(f"overlap, {name}", steps, raw[name]["overlap"]) for name in MODELS]
        curves.append(seed_curve("router accuracy", steps, raw["mixture"]["accuracy"]))
        return Chart(curves=tuple(curves), x_label="step", y_label="share", logarithmic=False)

    def plateau_ends(self, error: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, "_"]:
        """The step of the first record below the plateau, by seed; infinite where there is none."""
        below = error < self.broken
        return np.where(below.any(axis=1), self._steps()[np.argmax(below, axis=1)], np.inf)

    def _steps(self) -> Float[np.ndarray, "_"]:
        return np.arange(1, self.steps // self.record_every + 1) * float(self.record_every)


def clustered(
    key: Array, study: ClusterStructure, number: int
) -> tuple[Float[Array, "B D"], Float[Array, "B"], Float[Array, "B"]]:
    """Inputs, responses and clusters 1 or -1; v, u, w_1 and w_-1 are the first four axes."""
    signs, normal, noise = jax.random.split(key, 3)
    cluster = jnp.where(jax.random.bernoulli(signs, shape=(number,)), 1.0, -1.0).astype(jnp.float32)
    x = jax.random.normal(normal, (number, study.dim)).at[:, 0].add(study.separation * cluster)
    u, w = x[:, 1], jnp.where(cluster > 0, x[:, 2], x[:, 3])
    second, fourth = (u**2 - 1) / math.sqrt(2), (w**4 - 6 * w**2 + 3) / math.sqrt(24)
    return x, cluster * second + fourth + study.noise * jax.random.normal(noise, (number,)), cluster


def predict(params: Any, x: Float[Array, "B D"]) -> tuple[Float[Array, "B"], Float[Array, "B E"]]:
    """Responses, and the chosen expert one-hot. params: 'router' [D E], 'kernel' [E D F], 'bias' [E F], 'out' [E F], 'offset' [E]. The
    chosen expert is weighed by its softmax score, through which the router learns.
    """
    gates = jax.nn.softmax(x @ params["router"])
    chosen = jax.nn.one_hot(jnp.argmax(gates, axis=1), gates.shape[1])
    hidden = jax.nn.relu(jnp.einsum("bd,edf->bef", x, params["kernel"]) + params["bias"][None])
    experts = jnp.einsum("bef,ef->be", hidden, params["out"]) + params["offset"][None]
    return jnp.sum(gates * chosen * experts, axis=1), chosen


def purity(chosen: Float[Array, "B E"], cluster: Float[Array, "B"]) -> Float[Array, ""]:
    """Share of inputs whose cluster is that of most inputs of their expert."""
    first = jnp.sum(chosen * (cluster > 0).astype(chosen.dtype)[:, None], axis=0)
    return jnp.sum(jnp.maximum(first, jnp.sum(chosen, axis=0) - first)) / chosen.shape[0]


def _start(key: Array, study: ClusterStructure, num_experts: int) -> Any:
    """Units of random directions of length one, small outputs."""
    kernel, bias, out, router = jax.random.split(key, 4)
    shape = (num_experts, study.width // num_experts)
    directions = jax.random.normal(kernel, (num_experts, study.dim, shape[1]))
    return {
        "router": 0.1 * jax.random.normal(router, (study.dim, num_experts)) / math.sqrt(study.dim),
        "kernel": directions / jnp.linalg.norm(directions, axis=1, keepdims=True),
        "bias": jax.random.normal(bias, shape),
        "out": 0.1 * jax.random.normal(out, shape) / math.sqrt(shape[1]),
        "offset": jnp.zeros((num_experts,)),
    }


def _train(key: Array, *, study: ClusterStructure, num_experts: int) -> dict[str, Array]:
    """One seed; the stream of examples is the same for both models."""
    data, test, first = jax.random.split(key, 3)
    x_test, y_test, cluster = clustered(test, study, study.num_test)
    params = _start(first, study, num_experts)
    adam = optax.adam(study.learning_rate)

    def loss(params: Any, x: Array, y: Array) -> Array:
        return jnp.mean((predict(params, x)[0] - y) ** 2)

    def step(carry: tuple[Any, Any], index: Array) -> tuple[Any, None]:
        params, state = carry
        x, y, _ = clustered(jax.random.fold_in(data, index), study, study.batch)
        update, state = adam.update(jax.grad(loss)(params, x, y), state, params)
        return (optax.apply_updates(params, update), state), None

    def span(carry: Any, steps: Array) -> tuple[Any, dict[str, Array]]:
        carry, _ = jax.lax.scan(step, carry, steps)
        found, chosen = predict(carry[0], x_test)
        units = carry[0]["kernel"] / jnp.linalg.norm(carry[0]["kernel"], axis=1, keepdims=True)
        overlap = jnp.max(jnp.abs(units[:, 2:4]), axis=(0, 2))
        accuracy = purity(chosen, cluster) if num_experts > 1 else jnp.asarray(jnp.nan, jnp.float32)
        error = jnp.mean((found - y_test) ** 2) / jnp.var(y_test)
        return carry, {"error": error, "overlap": jnp.mean(overlap), "accuracy": accuracy}

    steps = jnp.arange(study.steps, dtype=jnp.int32).reshape(-1, study.record_every)
    return jax.lax.scan(span, (params, adam.init(params)), steps)[1]


EXAMPLES = (ClusterStructure(),)
