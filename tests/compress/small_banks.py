"""Small banks of experts and calibration statistics of random rows, for the tests of bank methods."""

import jax.numpy as jnp
import numpy as np

from moejax.compress.statistics import LeafStatistics
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.linear.dense import Dense

E, D, F = 4, 6, 8
EXPERTS = {"mlp": MlpExperts(expert_dim=F), "swiglu": SwigluExperts(expert_dim=F)}


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def bank(kind="mlp", *, num_experts=E, dim=D, width=F, seed=0):
    """A bank with kernels and biases from N(0, 1)."""
    draw = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(draw.normal(size=shape), jnp.float32)

    found = {"up": Dense(array(num_experts, dim, width)), "down": Dense(array(num_experts, width, dim))}
    if kind == "swiglu":
        return found | {"gate": Dense(array(num_experts, dim, width))}
    return found | {"up_bias": array(num_experts, width), "down_bias": array(num_experts, dim)}


def with_router(params, seed=1):
    """The bank with a router's kernel beside it, as methods get it."""
    experts, dim = params["up"].kernel.shape[:2]
    return params | {"router": jnp.asarray(random(seed, dim, experts), jnp.float32)}


def calibration(params, *, count=(5.0, 3.0, 2.0, 9.0), num_rows=40, seed=2):
    """Statistics of random rows: every expert read all of them, whatever the counts say."""
    experts, dim, width = params["up"].kernel.shape
    rows, hidden = random(seed, num_rows, dim), random(seed + 1, experts, num_rows, width)
    moment = np.broadcast_to(rows.T @ rows, (experts, dim, dim))
    read = LeafStatistics(count=jnp.asarray(count), second_moment=jnp.asarray(moment, jnp.float32))
    inner = jnp.asarray(np.einsum("enf,eng->efg", hidden, hidden), jnp.float32)
    return {
        "up": read,
        "gate": read,
        "down": LeafStatistics(count=jnp.asarray(count), second_moment=inner),
        "router": LeafStatistics(count=jnp.float32(num_rows), rows=jnp.asarray(rows, jnp.float32)),
    }


def kernels(params):
    """name -> dense kernels in float64."""
    return {
        name: np.asarray(leaf.materialise(), np.float64)
        for name, leaf in params.items()
        if hasattr(leaf, "materialise")
    }


def squared_error(one, other):
    """Of all kernels together."""
    mine, theirs = kernels(one), kernels(other)
    return sum(float(np.sum((mine[name] - theirs[name]) ** 2)) for name in mine)
