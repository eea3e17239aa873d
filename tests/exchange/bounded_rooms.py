"""Less room than rows on four of eight simulated devices in two rings, against a plain loop; prints JSON. Started by the tests.

Every line is [exchange, largest error over largest number, beyond_room of `metrics`, the same of the loop].
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import on_eight_devices as eight

from moejax.dispatch import strategies
from moejax.exchange.all_to_all import AllToAll
from moejax.exchange.least_loaded import LeastLoaded
from moejax.experts.mlp import MlpExperts
from moejax.sharding.mesh import MeshSpec

N, E = 4, eight.E


def with_room(expert, room):
    """The choices [G S K] that find room: -1 in the place of the others. Device d serves sources d, d + 1, ... and first experts first."""
    found = np.full_like(expert, -1)
    per_ring, per_device = len(expert) // 2, len(expert) // 2 // N
    for ring in range(2):
        for device in range(N):
            free = room
            for turn in range(N):
                first = ring * per_ring + (device + turn) % N * per_device
                own = list(np.ndindex(per_device, *expert.shape[1:]))
                for e in range(device * E // N, (device + 1) * E // N):
                    for g, s, k in own:
                        if expert[first + g, s, k] == e and free > 0:
                            free -= 1
                            found[first + g, s, k] = e
    return found


def main(rows=""):
    if rows == "as_they_are":
        eight.travel_as_they_are()
    mesh = MeshSpec(data=2, expert=N).build()
    bank = MlpExperts(expert_dim=6)
    skewed = np.where(
        eight.draw.uniform(size=(eight.G, eight.S, 1)) < 0.6, 0, eight.draw.integers(1, E, (eight.G, eight.S, 1))
    )
    plan = eight.token_choice(None, np.concatenate([skewed, (skewed + 1) % E], axis=-1))
    x = eight.normal(eight.G, eight.S, eight.D)
    params = jax.tree.map(lambda leaf: eight.normal(*leaf.shape) / 2, jax.eval_shape(lambda: bank.init(jax.random.key(0), E, eight.D)))  # fmt: skip
    local = jax.jit(
        functools.partial(eight.value_and_gradients, functools.partial(strategies.dispatch, "ragged"), bank)
    )
    own = eight.G // 8 * eight.S * eight.K
    bounded = LeastLoaded(threshold=1.0, min_rows=1, num_guests=4, receive_factor=1.0)
    for exchange in (AllToAll(receive_factor=1.0), bounded):
        kept = np.asarray(plan.expert)
        if exchange != bounded:
            kept = with_room(kept, own)
        wanted = jax.device_get(local(plan.replace(expert=jnp.asarray(kept)), x, params))
        move = functools.partial(exchange.dispatch, "ragged")
        with jax.set_mesh(mesh):
            found = jax.device_get(jax.jit(functools.partial(eight.value_and_gradients, move, bank))(plan, x, params))
            told = jax.jit(functools.partial(exchange.metrics, "ragged"))(plan)
        error = eight.largest(jax.tree.map(np.subtract, found, wanted)) / max(eight.largest(wanted), 1.0)
        lost = float(np.mean(kept != np.asarray(plan.expert)))
        print(json.dumps([repr(exchange), error, float(told["beyond_room"]), lost, float(told.get("peak_rows", 0))]))


if __name__ == "__main__":
    main(*sys.argv[1:])
