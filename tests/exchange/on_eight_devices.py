"""All exchanges by all plans on a mesh of eight simulated devices, against one device; prints JSON. Started by the tests.

  python tests/exchange/on_eight_devices.py data=2,expert=4 mlp
  python tests/exchange/on_eight_devices.py expert=4,model=2 swiglu dropless/drops all_to_all
  python tests/exchange/on_eight_devices.py expert=8 mlp dropless all_to_all as_they_are

Every line is [exchange, plan, largest error over largest number, experts without tokens whose gradient is not zero]. All but the
first example of an exchange meet the plans 'dropless' and 'drops' alone: rows, and buffers. 'as_they_are': rows travel as on a
TPU or GPU, the ragged collective, which a CPU lacks, written out.
"""

import functools
import json
import os
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.contracts import enter, leave
from moejax.core.plans import ExpertChoice, Merge, SlotMix, TokenChoice
from moejax.core.spec import examples
from moejax.dispatch import strategies
from moejax.exchange.all_to_all import AllToAll
from moejax.exchange.divided_rows import DividedRows
from moejax.linear.contract import is_leaf
from moejax.linear.expert_axis import shared_fields
from moejax.sharding.mesh import MeshSpec

G, S, D, E, K = 8, 5, 8, 4, 2
WEIGHTS = ("weight", "dispatch", "combine")
draw = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(draw.normal(size=shape), jnp.float32)


def token_choice(capacity, expert=None, priority=False):
    if expert is None:
        expert = np.stack([draw.permutation(E)[:K] for _ in range(G * S)]).reshape(G, S, K)
        expert[1, :2] = -1
    expert = jnp.asarray(np.broadcast_to(expert, (G, S, K)), jnp.int32)
    weight = jnp.asarray(draw.uniform(0.2, 1, (G, S, K)), jnp.float32)
    return TokenChoice(weight=weight, expert=expert, priority=normal(G, S) if priority else None, num_experts=E, capacity=capacity)  # fmt: skip


def plans():
    """name -> (plan, strategy, experts that no token reaches)."""
    softmax = jax.nn.softmax
    return {
        "dropless": (token_choice(None), "ragged", ()),
        "all to one expert": (token_choice(None, [3, -1]), "ragged", (0, 1, 2)),
        "nothing chosen": (token_choice(None, [-1, -1]), "ragged", (0, 1, 2, 3)),
        "drops": (token_choice(2, priority=True), "gather", ()),
        "drops, all to one expert": (token_choice(2, [0, -1]), "einsum", (1, 2, 3)),
        "drops, rows": (token_choice(2, [1, 3]), "ragged", (0, 2)),
        "expert choice": (
            ExpertChoice(jnp.asarray(draw.integers(0, S, (G, E, 3)), jnp.int32), softmax(normal(G, E, 3))), "gather", (),
        ),
        "slots": (SlotMix(softmax(normal(G, S, E, 2), 1), softmax(normal(G, S, E, 2), (2, 3))), "einsum", ()),
        "merged": (Merge(softmax(normal(G, E))), "merge", ()),
    }  # fmt: skip


def value_and_gradients(move, bank, plan, x, params):
    weights = {name: getattr(plan, name) for name in WEIGHTS if hasattr(plan, name)}

    def run(x, weights, params):
        y = move(plan.replace(**weights), enter(bank, params, x), params, bank.apply)
        return leave(bank, params, y)

    y, pullback = jax.vjp(run, x, weights, params)
    return y, *pullback(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


def not_zero(params, unused):
    """Of these experts, those with a gradient."""
    found = set()
    for node in jax.tree.leaves(params, is_leaf=is_leaf):
        shared = [id(a) for field in shared_fields(node) for a in jax.tree.leaves(getattr(node, field))]
        own = [array for array in jax.tree.leaves(node) if id(array) not in shared]
        found |= {expert for expert in unused for array in own if np.any(array[expert])}
    return sorted(found)


def largest(tree):
    return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))


def fits(name, exchange, plan_name, plan, strategy, mesh):
    by_rows = name == "constraints" and strategy == "ragged"
    only_rows = isinstance(exchange, DividedRows) or getattr(exchange, "receive_factor", None) is not None
    as_all_to_all = only_rows and (strategy != "ragged" or plan_name not in ("dropless", "all to one expert"))
    n, guests = mesh.shape["expert"], getattr(exchange, "guests", ())
    divides = n % (getattr(exchange, "group", None) or 1) == 0 and len(guests) in (0, n)
    first = next(spec for other, spec in examples("exchange") if other == name)
    optional = exchange != first and plan_name not in ("dropless", "drops")
    return type(plan) in exchange.plans and divides and not by_rows and not as_all_to_all and not optional


def ragged_collective(rows, room, first, count, there, came, *, axis_name):
    """What `jax.lax.ragged_all_to_all` does, by gathering everything."""
    del came
    rows, first, count, there = (jax.lax.all_gather(a, axis_name) for a in (rows, first, count, there))
    me, place = jax.lax.axis_index(axis_name), jnp.arange(rows.shape[1], dtype=jnp.int32)[None]
    first, count, there = (a[:, me, None] for a in (first, count, there))
    target = jnp.where((place >= first) & (place < first + count), place - first + there, len(room))
    return room.at[target.reshape(-1)].set(rows.reshape(-1, rows.shape[-1]), mode="drop")


def travel_as_they_are():
    AllToAll._by_platform = lambda self, equal, ragged, devices: equal if self.group or self.wire_dtype else ragged
    jax.lax.ragged_all_to_all = ragged_collective


def main(sizes, bank_name, plan_names="", exchange_names="", rows=""):
    if rows == "as_they_are":
        travel_as_they_are()
    mesh = MeshSpec(**{name: int(size) for name, size in (part.split("=") for part in sizes.split(","))}).build()
    method, _, number = bank_name.partition("-")
    bank = [spec for name, spec in examples("experts") if name == method][int(number or 0)]
    x = normal(G, S, D)
    shapes = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) / 2, shapes)
    for plan_name, (plan, strategy, unused) in plans().items():
        if plan_names and plan_name not in plan_names.split("/"):
            continue
        local = functools.partial(value_and_gradients, functools.partial(strategies.dispatch, strategy), bank)
        wanted = jax.device_get(jax.jit(local)(plan, x, params))
        for name, exchange in examples("exchange"):
            if exchange_names and name not in exchange_names.split("/"):
                continue
            if not fits(name, exchange, plan_name, plan, strategy, mesh):
                continue
            move = functools.partial(exchange.dispatch, strategy)
            with jax.set_mesh(mesh):
                found = jax.device_get(jax.jit(functools.partial(value_and_gradients, move, bank))(plan, x, params))
            error = largest(jax.tree.map(np.subtract, found, wanted)) / max(largest(wanted), 1.0)
            print(json.dumps([repr(exchange), plan_name, error, not_zero(found[3], unused)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
