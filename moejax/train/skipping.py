"""A step whose numbers are not finite leaves the state as it was: decided on the device, inside the compiled step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool


def all_finite(metrics: Mapping[str, Array]) -> Bool[Array, ""]:
    """Whether every number among a step's metrics is finite, 'grad_finite' included; traceable.

    Exactly what `first_failure` asks of the same metrics on the host.
    """
    fine = [jnp.all(metrics["grad_finite"])]
    return jnp.all(
        jnp.stack(fine + [jnp.all(jnp.isfinite(value)) for n, value in metrics.items() if n != "grad_finite"])
    )


def kept(finite: Bool[Array, ""], new: Any, old: Any) -> Any:
    """`new` where the step was finite, else `old`; counts of schedules are always those of `new`.

    So a skipped step changes no parameter, no moment and no router state, and the learning rate stays that of the step's number.
    It is chosen inside the compiled step: nothing is asked of the device, and nothing has to be rolled back, for which two states
    would have to be kept or steps be repeated. Source: ours.
    """

    def choose(one: Any, other: Any) -> Any:
        if isinstance(one, optax.ScaleByScheduleState):
            return one
        return jnp.where(finite, one, other)

    return jax.tree.map(choose, new, old, is_leaf=lambda leaf: isinstance(leaf, optax.ScaleByScheduleState))
