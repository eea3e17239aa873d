"""The train state: everything that a step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from moejax.core.rng import named


@flax.struct.dataclass
class TrainState:
    """Also a tree of shapes, specs or shardings, hence the loose annotations.

    step: int32 [], steps done. state: router state. ema: average of params, None without. key: never changes; each step
    folds its number in.
    """

    step: Any
    params: Any
    state: Any
    opt_state: Any
    ema: Any
    key: Any

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: the average where there is one."""
        return self.params if self.ema is None else self.ema


def create(task: Any, optimizer: optax.GradientTransformation, key: PRNGKeyArray, *, ema: bool) -> TrainState:
    """The state before the first step; traceable, so that `jax.eval_shape` gives its shapes."""
    # Weak types would be strong after the first step, and the second would be compiled anew.
    params, state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), task.init(named(key, "init")))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        state=state,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.array, params) if ema else None,
        key=named(key, "train"),
    )
