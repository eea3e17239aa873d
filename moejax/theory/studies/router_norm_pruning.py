"""Experts whose router vectors grow in fine-tuning are those that find the patterns of the classes; the others can go.

Every example has one token of a pattern that tells its class, o1 or o2, among tokens of patterns that tell nothing. Every expert takes
the tokens that score highest for it, weighs them by a softmax over these, and adds its ReLU features with a fixed sign.
Source: Chowdhury et al. 2024 ("A provably effective method for pruning experts in fine-tuned sparse mixture-of-experts"), sections 3
    and 4: the data, the layer, and the order of pruning.
Deviations: the state before fine-tuning is random, so that experts are proficient by chance; sizes are ours; no fine-tuning after pruning.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moejax.core.errors import SpecError
from moejax.routing.norm_growth import norm_growth, pruning_order
from moejax.theory.findings import Chart, Curve, Expected, Finding
from moejax.theory.over_seeds import check_seeds, mean_finding, seed_curve, share_finding
from moejax.theory.studies.contract import Raw

ORDERS = ("norm growth", "random", "reversed")
_NUM_CLASSES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterNormPruning:
    """dim: of tokens, which is the number of patterns; tokens: of an example; capacity: tokens that an expert takes. expert_dim: ReLU
    features of an expert. expert_rate, router_rate: step sizes of stochastic gradient descent.

    Raises SpecError for fewer than 3 seeds, an odd number of experts (half have the sign of each class), or more slots than tokens.
    """

    dim: int = 32
    tokens: int = 16
    num_experts: int = 16
    capacity: int = 4
    expert_dim: int = 8
    steps: int = 600
    batch: int = 64
    num_test: int = 1000
    expert_rate: float = 0.02
    router_rate: float = 0.2
    router_scale: float = 0.3
    num_seeds: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds(self.num_seeds)
        if self.num_experts % 2 or self.capacity > self.tokens:
            raise SpecError(
                f"num_experts={self.num_experts} must be even, capacity={self.capacity} at most tokens={self.tokens}."
            )

    @property
    def claim(self) -> str:
        return "Experts with the smallest growth of their router vectors can be pruned without loss, since they hold no pattern of a class."

    @property
    def protocol(self) -> str:
        return (
            f"{self.num_experts} experts that take {self.capacity} of {self.tokens} tokens, fine-tuned by {self.steps} steps of SGD on the hinge "
            f"loss; pruned by growth, at random, and in reversed order, {self.num_seeds} seeds."
        )

    @property
    def expected(self) -> tuple[Expected, ...]:
        return (
            Expected(
                quantity="area under the curve",
                value=1.0,
                tolerance=0.1,
                why="chance that an expert that takes the pattern of its class has grown more than one that does not",
            ),
            Expected(
                quantity="loss at half",
                value=0.0,
                tolerance=1.0,
                why="points of test accuracy lost where the half of the experts that grew least is pruned",
            ),
            Expected(
                quantity="growth above random",
                value=1.0,
                tolerance=0.0,
                why="share of seeds in which mean accuracy over all fractions is higher than of random pruning",
            ),
            Expected(
                quantity="random above reversed",
                value=1.0,
                tolerance=0.0,
                why="share of seeds in which mean accuracy over all fractions of random pruning is higher than of the reversed order",
            ),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return ("fine-tuned",)

    def estimates(self, part: str) -> Raw:
        """'growth' [R E] of router vectors, 'aligned' [R E], and by order of pruning 'accuracy-...' [R E] with 0, 1, ... E - 1 experts gone."""
        keys = jax.random.split(jax.random.key(self.seed), self.num_seeds)
        tuned = jax.jit(lambda keys: jax.lax.map(functools.partial(_tune, study=self), keys))(keys)
        found = {name: np.asarray(values) for name, values in tuned.items()}
        growth = norm_growth(found["before"], found["after"])
        draw = np.random.default_rng((self.seed, 1))
        noise = draw.random((self.num_seeds, 20, self.num_experts))
        ranks = {"norm growth": growth[:, None], "random": noise, "reversed": -growth[:, None]}
        accuracies = {}
        for name, rank in ranks.items():
            gone = np.argsort(pruning_order(rank), axis=-1)  # at which place an expert goes
            accuracies[f"accuracy-{name}"] = _pruned_accuracy(found["outputs"], found["labels"], gone)
        return {"growth": growth, "aligned": found["aligned"], "accuracy": found["accuracy"], **accuracies}

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        found = raw["fine-tuned"]
        curves = {name: np.asarray(found[f"accuracy-{name}"], np.float64) for name in ORDERS}
        means = {name: curve.mean(axis=1) for name, curve in curves.items()}
        areas = [area_under_curve(*pair) for pair in zip(found["growth"], found["aligned"], strict=True)]
        area, loss, above, below = self.expected
        lost = curves["norm growth"][:, 0] - curves["norm growth"][:, self.num_experts // 2]
        return (
            mean_finding(area, np.array(areas)),
            mean_finding(loss, lost),
            share_finding(above, means["norm growth"] > means["random"]),
            share_finding(below, means["random"] > means["reversed"]),
        )

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        share = np.arange(self.num_experts) / self.num_experts
        curves: list[Curve] = [seed_curve(name, share, raw["fine-tuned"][f"accuracy-{name}"]) for name in ORDERS]
        return Chart(
            curves=tuple(curves), x_label="share of experts pruned", y_label="test accuracy, points", logarithmic=False
        )


def area_under_curve(score: Float[np.ndarray, "_"], positive: Bool[np.ndarray, "_"]) -> float:
    """Chance that a positive one scores above a negative one, halves for equals; NaN without both kinds."""
    if positive.all() or not positive.any():
        return float("nan")
    apart = score[positive][:, None] - score[~positive][None]
    return float(np.mean((apart > 0) + 0.5 * (apart == 0)))


def draw_tokens(key: Array, study: RouterNormPruning, number: int) -> tuple[Float[Array, "B T D"], Float[Array, "B"]]:
    """Tokens and labels -1 or 1. Patterns are the axes: 0 is o1, of label 1; 1 is o2; the others tell nothing."""
    label, place, pattern, noise = jax.random.split(key, 4)
    signs = jnp.where(jax.random.bernoulli(label, shape=(number,)), 1.0, -1.0)
    patterns = jax.random.randint(pattern, (number, study.tokens), _NUM_CLASSES, study.dim)
    told = jax.random.randint(place, (number,), 0, study.tokens)[:, None] == jnp.arange(study.tokens)[None]
    patterns = jnp.where(told, jnp.where(signs > 0, 0, 1)[:, None], patterns)
    tokens = jax.nn.one_hot(patterns, study.dim)
    return tokens + 0.02 * jax.random.normal(noise, tokens.shape), signs


def expert_outputs(params: Any, x: Float[Array, "B T D"], capacity: int) -> Float[Array, "B E"]:
    """What every expert adds. params: 'router' [D E], 'expert' [E D F]; the first half of the experts adds, the second subtracts."""
    scores = jnp.swapaxes(x @ params["router"], 1, 2)  # [B E T]
    best, token = jax.lax.top_k(scores, capacity)
    taken = jnp.take_along_axis(x[:, None], token[..., None], axis=2)  # [B E capacity D]
    features = jax.nn.relu(jnp.einsum("becd,edf->becf", taken, params["expert"]))
    sign = jnp.where(jnp.arange(scores.shape[1]) < scores.shape[1] // 2, 1.0, -1.0)
    return sign[None] * jnp.sum(jax.nn.softmax(best) * jnp.sum(features, axis=-1), axis=-1)


def _tune(key: Array, study: RouterNormPruning) -> dict[str, Array]:
    """One seed from its random state through fine-tuning, with the experts' outputs on test data."""
    router, expert, data, test = jax.random.split(key, 4)
    shape = (study.num_experts, study.dim, study.expert_dim)
    before = {
        "router": study.router_scale * jax.random.normal(router, (study.dim, study.num_experts)),
        "expert": 0.01 * jax.random.normal(expert, shape),
    }
    rates = {"router": study.router_rate, "expert": study.expert_rate}

    def step(params: Any, key: Array) -> tuple[Any, None]:
        x, y = draw_tokens(key, study, study.batch)

        def hinge(params: Any) -> Array:
            return jnp.mean(jax.nn.relu(1 - y * jnp.sum(expert_outputs(params, x, study.capacity), axis=1)))

        return jax.tree.map(lambda p, g, rate: p - rate * g, params, jax.grad(hinge)(params), rates), None

    after, _ = jax.lax.scan(step, before, jax.random.split(data, study.steps))
    x, y = draw_tokens(test, study, study.num_test)
    outputs = expert_outputs(after, x, study.capacity)
    return {
        "before": before["router"],
        "after": after["router"],
        "outputs": outputs,
        "labels": y,
        "accuracy": 100 * jnp.mean((jnp.sign(jnp.sum(outputs, axis=1)) == y).astype(jnp.float32)),
        "aligned": _aligned(after, x, y, study),
    }


def _aligned(params: Any, x: Array, y: Array, study: RouterNormPruning) -> Bool[Array, "E"]:
    """Experts that take the token of their own class, with a weight of at least 1 / capacity, in more than half of its examples."""
    best, token = jax.lax.top_k(jnp.swapaxes(x @ params["router"], 1, 2), study.capacity)
    own = jnp.where(jnp.arange(study.num_experts) < study.num_experts // 2, 0, 1)  # the pattern of each expert's sign
    place = jnp.argmax(jnp.max(x[:, :, :_NUM_CLASSES], axis=2), axis=1)  # of the token that tells the class
    taken = jnp.any((token == place[:, None, None]) & (jax.nn.softmax(best) >= 1 / study.capacity), axis=2)
    told = jnp.where(y > 0, 0, 1)[:, None] == own[None]
    return 2 * jnp.sum(taken & told, axis=0) > jnp.sum(told, axis=0)


def _pruned_accuracy(
    outputs: Float[np.ndarray, "_ B E"], labels: Float[np.ndarray, "_ B"], gone: Any
) -> Float[np.ndarray, "_ E"]:
    """In points [seeds, experts gone], the mean over orders; gone [seeds, orders, E]: the place of each expert in the order."""
    found = []
    for count in range(outputs.shape[-1]):
        kept = (gone >= count).astype(outputs.dtype)
        sums = np.einsum("rbe,roe->rob", outputs, kept)
        found.append(100 * np.mean(np.sign(sums) == labels[:, None], axis=(1, 2)))
    return np.stack(found, axis=1)


EXAMPLES = (RouterNormPruning(),)
