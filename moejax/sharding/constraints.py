"""Constraint helper: says how an intermediate array lies on the mesh in force."""

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Shaped

from moejax.sharding.mesh import BATCH_AXES
from moejax.sharding.rules import Rules


def constrain(x: Shaped[Array, "..."], rules: Rules, *axes: str | None) -> Shaped[Array, "..."]:
    """x, with its logical axes split by `rules` over the mesh of `jax.set_mesh`; x itself where no mesh is set.

    Source: ours. Raises SpecError as `Rules.spec` does.
    """
    spec = rules.spec(*axes)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def over_batch(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The tokens split by their examples, so that parameters that are split travel and not tokens; as they are without a mesh.

    Source: ours.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names) or AxisType.Manual in mesh.axis_types:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))
