"""What a restructured diffusion model learns from the model that it came from, one value per example.

Source: Zheng et al. 2025, "Dense2MoE", the three losses of its distillation: the teacher's output, the routers' balance (the
routers' own losses, see `routing/losses.py`), and the features behind each group of blocks.
Deviations: how features are normalised is not known in detail; here each group's squared error is divided by the mean
square of the teacher's features, so that groups of different magnitude weigh alike.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError


def output_loss(student: Float[Array, "B ..."], teacher: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Mean squared difference of what both predict; no gradient reaches the teacher."""
    return jnp.mean(_squared(student, teacher), axis=tuple(range(1, student.ndim)))


def group_feature_loss(
    student: Mapping[str, Float[Array, "B T D"]], teacher: Mapping[str, Float[Array, "B T D"]]
) -> Float[Array, " B"]:
    """Mean over groups of blocks of the squared difference of their outputs, relative to the teacher's mean square.

    student, teacher: tokens behind each group, by the group's name. Raises SpecError when the groups differ, or there are none.
    """
    if not teacher or student.keys() != teacher.keys():
        raise SpecError(f"features of the same groups are needed; found {sorted(student)} and {sorted(teacher)}.")
    terms = []
    for name, wanted in teacher.items():
        size = jnp.mean(jnp.square(jax.lax.stop_gradient(wanted).astype(jnp.float32)))
        terms.append(output_loss(student[name], wanted) / jnp.maximum(size, jnp.finfo(jnp.float32).tiny))
    return jnp.mean(jnp.stack(terms), axis=0)


def distillation_loss(
    output: Float[Array, " B"],
    features: Float[Array, " B"],
    balance: Float[Array, ""],
    *,
    feature_weight: float,
    balance_weight: float = 1.0,
) -> Float[Array, ""]:
    """The scalar to minimise: mean output loss, plus weighted mean feature loss, plus the routers' (weighted by themselves).

    Raises SpecError for a negative weight.
    """
    if feature_weight < 0 or balance_weight < 0:
        raise SpecError(f"feature_weight={feature_weight} and balance_weight={balance_weight} must not be negative.")
    return jnp.mean(output) + feature_weight * jnp.mean(features) + balance_weight * balance


def _squared(student: Float[Array, "B ..."], teacher: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    if student.shape != teacher.shape:
        raise SpecError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must have one shape.")
    return jnp.square(student.astype(jnp.float32) - jax.lax.stop_gradient(teacher).astype(jnp.float32))
