"""Many small experts against few large ones with the same parameters: what k of m experts can be chosen in more ways can express more.

Teacher and students are sums of k experts out of m, the k largest of a linear router, each of the same number of ReLU units; students
have as many units in all and as many active ones, in experts of different sizes.
Source: Boix-Adsera and Rigollet 2025 ("The power of fine-grained experts: granularity boosts expressivity in mixture of experts"): a
    student needs about as many combinations of experts as the teacher, whatever the size of its experts.
Deviations: the paper proves what students can express; here students are trained, by Adam, in few dimensions. The chosen experts are
    weighed by a softmax over them, through which routers learn; a student's router grows with its experts and is not counted.
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
from moejax.theory.findings import Chart, Curve, Expected, Finding
from moejax.theory.over_seeds import check_seeds, mean_finding, share_finding
from moejax.theory.studies.contract import Raw


@dataclasses.dataclass(frozen=True, kw_only=True)
class Granularity:
    """active: experts chosen, k of each student, ascending; the last is the teacher's. ratio: experts per chosen one, m / k. active_units: ReLU
    units of the chosen experts together. outputs: numbers that are predicted.

    Raises SpecError for fewer than 3 seeds or 2 students, and for units that experts cannot share equally.
    """

    active: tuple[int, ...] = (1, 2, 4, 8)
    ratio: int = 8
    active_units: int = 16
    dim: int = 12
    outputs: int = 8
    steps: int = 3000
    batch: int = 128
    num_test: int = 4000
    learning_rate: float = 5e-3
    num_seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds(self.num_seeds)
        if len(self.active) < 2 or sorted(set(self.active)) != list(self.active) or self.active[0] < 1:
            raise SpecError(f"active={self.active} must be at least two numbers from 1 on that ascend.")
        if wrong := [k for k in self.active if self.active_units % k]:
            raise SpecError(f"active_units={self.active_units} cannot be shared by {wrong} experts equally.")

    @property
    def claim(self) -> str:
        return "At equal total and active parameters more and smaller experts express more: the combinations of experts count."

    @property
    def protocol(self) -> str:
        k = self.active[-1]
        return (
            f"A random teacher with {k} of {k * self.ratio} experts on normal inputs of {self.dim} dimensions; students with k = {self.active} "
            f"of {self.ratio} k experts and {self.active_units} active units, {self.steps} steps of Adam, {self.num_seeds} seeds."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        own = [
            Expected(
                quantity=f"error falls from k={few} to k={many}",
                value=1.0,
                tolerance=0.0,
                why="share of seeds in which the test error of the finer student is lower",
            )
            for few, many in zip(self.active[:-1], self.active[1:], strict=True)
        ]
        last = Expected(
            quantity=f"error at k={self.active[-1]} over that at k={self.active[0]}",
            value=0.0,
            tolerance=0.5,
            why="the finest student, of the teacher's own shape, has less than half of the coarsest one's test error",
        )
        return *own, last

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"k={k}" for k in self.active)

    def combinations(self) -> dict[int, int]:
        """In how many ways each student can choose its experts."""
        return {k: math.comb(self.ratio * k, k) for k in self.active}

    def estimates(self, part: str) -> Raw:
        """'error' [R]: mean squared error on test data over the variance of the teacher; 'used' [R]: share of experts chosen in the test."""
        active = int(part.partition("=")[2])
        keys = jax.random.split(jax.random.key(self.seed), self.num_seeds)
        run = jax.jit(lambda keys: jax.lax.map(functools.partial(_train, study=self, active=active), keys))
        return {name: np.asarray(values) for name, values in run(keys).items()}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        errors = {k: np.asarray(raw[f"k={k}"]["error"], np.float64) for k in self.active}
        found = []
        for expected, few, many in zip(self.expected[:-1], self.active[:-1], self.active[1:], strict=True):
            kept = np.isfinite(errors[few]) & np.isfinite(errors[many])
            found.append(share_finding(expected, errors[many] < errors[few], failed=int(np.sum(~kept))))
        ratio = errors[self.active[-1]] / errors[self.active[0]]
        return *found, mean_finding(self.expected[-1], ratio)

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        errors = np.stack([raw[f"k={k}"]["error"] for k in self.active], axis=1)
        ways = np.array(list(self.combinations().values()), np.float64)
        curve = Curve(
            label="test error", x=ways, y=errors.mean(axis=0), low=errors.min(axis=0), high=errors.max(axis=0)
        )
        return Chart(curves=(curve,), x_label="combinations of experts", y_label="test error / variance")


def start(key: Array, study: Granularity, active: int) -> Any:
    """A random mixture with k = active: 'router' [D E], 'kernel' [D units], 'bias' [units], 'out' [units outputs], units expert by expert."""
    router, kernel, bias, out = jax.random.split(key, 4)
    units, dim = study.ratio * study.active_units, study.dim
    return {
        "router": jax.random.normal(router, (dim, study.ratio * active)) / math.sqrt(dim),
        "kernel": jax.random.normal(kernel, (dim, units)) * math.sqrt(2 / dim),
        "bias": 0.1 * jax.random.normal(bias, (units,)),
        "out": jax.random.normal(out, (units, study.outputs)) / math.sqrt(study.active_units),
    }


def predict(params: Any, x: Float[Array, "B D"], active: int) -> tuple[Float[Array, "B _"], Float[Array, "B E"]]:
    """The outputs, and the weights of the experts: a softmax over the chosen ones times their number, 0 for the others."""
    scores = x @ params["router"]
    ranked = jax.lax.stop_gradient(scores)
    for _ in range(active - 1):  # a maximum after the other: on the host several times as fast as sorting
        ranked = jnp.where(ranked >= jnp.max(ranked, axis=1, keepdims=True), -jnp.inf, ranked)
    chosen = jax.lax.stop_gradient(scores) >= jnp.max(ranked, axis=1, keepdims=True)
    weights = active * jax.nn.softmax(jnp.where(chosen, scores, -jnp.inf))
    hidden = jax.nn.relu(x @ params["kernel"] + params["bias"][None])
    weighted = hidden.reshape(*weights.shape, -1) * weights[..., None]
    return weighted.reshape(hidden.shape) @ params["out"], weights


def _train(key: Array, *, study: Granularity, active: int) -> dict[str, Array]:
    """One seed; teacher and examples are the same for all students."""
    teacher_key, first, data, test = jax.random.split(key, 4)
    teacher = start(teacher_key, study, study.active[-1])
    params = start(first, study, active)
    schedule = optax.cosine_decay_schedule(study.learning_rate, study.steps)
    adam = optax.adam(schedule)

    def truth(x: Array) -> Array:
        return predict(teacher, x, study.active[-1])[0]

    def step(carry: tuple[Any, Any], index: Array) -> tuple[Any, None]:
        params, state = carry
        x = jax.random.normal(jax.random.fold_in(data, index), (study.batch, study.dim))
        y = truth(x)
        slope = jax.grad(lambda params: jnp.mean((predict(params, x, active)[0] - y) ** 2))(params)
        update, state = adam.update(slope, state, params)
        return (optax.apply_updates(params, update), state), None

    steps = jnp.arange(study.steps, dtype=jnp.int32)
    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), steps)
    x = jax.random.normal(test, (study.num_test, study.dim))
    y = truth(x)
    found, weights = predict(params, x, active)
    error = jnp.mean((found - y) ** 2) / jnp.mean((y - jnp.mean(y, axis=0, keepdims=True)) ** 2)
    return {"error": error, "used": jnp.mean(jnp.any(weights > 0, axis=0).astype(jnp.float32))}


EXAMPLES = (Granularity(),)
