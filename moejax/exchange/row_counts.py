"""How many rows of a plan go from which device to which expert, counted over the whole mesh.

Source: ours.
"""

import math

import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import Array, Int

from moejax.core.plans import Plan, TokenChoice
from moejax.dispatch import strategies
from moejax.dispatch.assignment import served_slots
from moejax.sharding.mesh import BATCH_AXES


def travels_in_rows(strategy: str, plan: Plan) -> bool:
    """Whether this strategy moves the plan's tokens as ragged rows."""
    name = strategies.resolve(plan) if strategy == "auto" else strategy
    return isinstance(plan, TokenChoice) and name == "ragged"


def rows_by_source(plan: Plan, mesh: AbstractMesh) -> Int[Array, "_ _ E"]:
    """Served choices of the tokens of each device for each expert; first axis: rings along `expert`, second: devices of a ring."""
    assert isinstance(plan, TokenChoice)
    served = plan.expert >= 0 if plan.capacity is None else served_slots(plan) >= 0
    parts, n = _parts(mesh), mesh.shape["expert"]
    expert = jnp.where(served, plan.expert, plan.num_experts).reshape(parts, -1)
    source = jnp.arange(parts)[:, None]
    counts = jnp.zeros((parts, plan.num_experts), jnp.int32).at[source, expert].add(1, mode="drop")
    return counts.reshape(parts // n, n, plan.num_experts)


def rows_of_device(plan: Plan, mesh: AbstractMesh) -> int:
    """How many rows the tokens of one device may have, as the strategy `ragged` counts them."""
    assert isinstance(plan, TokenChoice)
    groups, tokens, choices = plan.expert.shape
    own = groups // _parts(mesh)
    every = own * tokens * choices
    return every if plan.capacity is None else min(every, own * plan.num_experts * plan.capacity)


def _parts(mesh: AbstractMesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
