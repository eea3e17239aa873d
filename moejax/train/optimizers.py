"""Optimisers from one frozen spec: optax transformations, and per-leaf rules by regex over leaf names."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.tree import match_rules
from moejax.train.schedules import Schedule

OPTIMIZERS = ("adafactor", "adamw", "sgd")
LeafRules = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """name: 'adamw', 'adafactor' or 'sgd' (with momentum). learning_rate: the peak.

    schedule, warmup_steps, end_fraction, timescale, cooldown_steps: see `Schedule`.
    weight_decay: decoupled, per step and times the learning rate. weight_decay_rules: (pattern, factor on it); leaves
        without a rule do not decay.
    learning_rate_rules: (pattern, factor on the learning rate); leaves without a rule have 1.
    frozen: patterns of leaves that never move and need no optimiser memory.
    clip_norm: largest global norm of the gradient over the leaves that move (None: no clipping).
    Rules are found by regex search in leaf names, the first match wins, each match is logged.
    Source: AdamW, Loshchilov and Hutter 2019, algorithm 2; Adafactor, Shazeer and Stern 2018, algorithm 4, with
        momentum and decoupled decay as in Zhai et al. 2022, section 3.4.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 0
    end_fraction: float = 0.0
    timescale: int = 10_000
    cooldown_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.0
    weight_decay_rules: LeafRules = (("kernel$", 1.0),)
    learning_rate_rules: LeafRules = ()
    frozen: tuple[str, ...] = ()
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise SpecError(f"optimizer.name={self.name!r} is no optimiser.{did_you_mean(self.name, OPTIMIZERS)}")
        if self.learning_rate <= 0:
            raise SpecError(f"optimizer.learning_rate={self.learning_rate} must be positive.")
        if self.weight_decay < 0:
            raise SpecError(f"optimizer.weight_decay={self.weight_decay} must not be negative.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise SpecError(f"optimizer.clip_norm={self.clip_norm} must be positive (or None: no clipping).")
        for name in ("b1", "b2", "momentum"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SpecError(f"optimizer.{name}={getattr(self, name)} must lie in [0, 1).")
        self.rate_schedule()

    def rate_schedule(self) -> Schedule:
        """The schedule's spec. Raises SpecError for a misspelt or inconsistent one."""
        return Schedule(
            shape=self.schedule,
            warmup_steps=self.warmup_steps,
            end_fraction=self.end_fraction,
            timescale=self.timescale,
            cooldown_steps=self.cooldown_steps,
        )

    def rate(self, steps: int) -> optax.Schedule:
        """The learning rate at each step of a run of `steps`."""
        multiplier = self.rate_schedule().build(steps)
        return lambda step: self.learning_rate * multiplier(step)

    def build(self, params: Any, steps: int) -> optax.GradientTransformation:
        """The transformation for parameters (arrays or shapes).

        Raises SpecError when a pattern is found in no leaf name, or when no leaf is left to train.
        """
        labels = self.labels(params)
        if "trained" not in jax.tree.leaves(labels):
            raise SpecError(f"optimizer.frozen={self.frozen!r} freezes every leaf; nothing is left to train.")
        rates = match_rules(self.learning_rate_rules, params, default=1.0, what="optimizer.learning_rate_rules")
        chain = []
        if self.clip_norm is not None:
            chain.append(optax.clip_by_global_norm(self.clip_norm))
        chain.append(self._direction())
        if self.weight_decay:
            factors = match_rules(self.weight_decay_rules, params, default=0.0, what="optimizer.weight_decay_rules")
            chain.append(_add_decayed(jax.tree.map(lambda factor: self.weight_decay * factor, factors), params))
        if self.learning_rate_rules:
            chain.append(_scale_leaves(rates, params))
        chain.append(optax.scale_by_learning_rate(self.rate(steps)))
        trained = optax.chain(*chain)
        if not self.frozen:
            return trained
        return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)

    def labels(self, params: Any) -> Any:
        """'trained' or 'frozen' for every leaf."""
        return match_rules(
            [(pattern, "frozen") for pattern in self.frozen], params, default="trained", what="optimizer.frozen"
        )

    def _direction(self) -> optax.GradientTransformation:
        if self.name == "adamw":
            return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)
        if self.name == "sgd":
            return optax.trace(decay=self.momentum) if self.momentum else optax.identity()
        return optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.ema(self.momentum, debias=False) if self.momentum else optax.identity(),
        )


def _factors(values: Any, params: Any, tree: Any) -> Any:
    """`values` (one per parameter) in the structure of `tree`, where frozen leaves are masked out."""
    by_leaf = dict(zip(_paths(params), jax.tree.leaves(values), strict=True))
    return jax.tree_util.tree_map_with_path(lambda path, _: by_leaf[jax.tree_util.keystr(path)], tree)


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _add_decayed(decays: Any, params: Any) -> optax.GradientTransformation:
    def update(updates: Any, _: Any, current: Any) -> Any:
        return jax.tree.map(lambda u, p, decay: u + decay * p, updates, current, _factors(decays, params, updates))

    return optax.stateless(lambda updates, current: update(updates, None, current))


def _scale_leaves(rates: Any, params: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, _factors(rates, params, updates)))
