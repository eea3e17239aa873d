"""Constraint helper: says how an intermediate array lies on the mesh in force."""

import jax
from jaxtyping import Array, Shaped

from moejax.sharding.rules import Rules


def constrain(x: Shaped[Array, "..."], rules: Rules, *axes: str | None) -> Shaped[Array, "..."]:
    """x, with its logical axes split by `rules` over the mesh of `jax.set_mesh`; x itself where no mesh is set.

    Source: ours. Raises SpecError as `Rules.spec` does.
    """
    spec = rules.spec(*axes)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
