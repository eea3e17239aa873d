"""A run saved on eight simulated devices goes on with one, two and four; prints JSON. Started by the tests.

  python tests/train/save_and_load.py FOLDER

Every line is [devices, leaves that differ by a bit from what was saved, largest difference of the next losses].
"""

import json
import sys

import jax
import numpy as np
from on_eight_devices import BATCH, STEPS, batches, task_of  # sets the number of devices

from moejax.core.tree import flatten
from moejax.sharding.mesh import MeshSpec
from moejax.train.checkpoints import Checkpoints
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train
from moejax.train.stored_leaves import fill, own_copy

SAVED, GOES_ON = 4, 3
TASK = task_of("top_k", "all_to_all")


def program_on(mesh, devices):
    optimizer = Optimizer(name="adamw", learning_rate=1e-3, eps=1e-3, schedule="constant")
    spec = Train(steps=STEPS, mesh=mesh, ema_decay=0.9)
    return Program(TASK, optimizer, spec, seed=0, batch_size=BATCH, mesh=mesh.build(devices))


def losses_from(program, state, first, count):
    found = []
    with jax.set_mesh(program.mesh):
        for batch in list(batches(TASK))[first : first + count]:
            state, metrics = program.step(state, program.place(batch))
            found.append(float(metrics["total_loss"]))
    return state, np.asarray(found)


def main(folder):
    program = program_on(MeshSpec(data=1, fsdp=2, expert=4), jax.devices())
    with jax.set_mesh(program.mesh):
        state = program.init()
    state, _ = losses_from(program, state, 0, SAVED)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(SAVED, state, progress={}, config={}, wait=True)
        saved = {name: own_copy(leaf) for name, leaf in flatten(state).items()}
        _, expected = losses_from(program, state, SAVED, GOES_ON)
        for count in (1, 2, 4):
            fewer = program_on(MeshSpec(data=1, expert=count), jax.devices()[:count])
            restored = checkpoints.restore(fewer.template, shardings=fewer.shardings)
            state = jax.device_put(fill(fewer.template, restored.leaves), fewer.shardings)
            assert all(leaf.sharding.device_set <= set(jax.devices()[:count]) for leaf in restored.leaves.values())
            other = [name for name, leaf in flatten(state).items() if not np.array_equal(own_copy(leaf), saved[name])]
            _, found = losses_from(fewer, state, SAVED, GOES_ON)
            print(json.dumps([count, other, float(np.max(np.abs(found - expected)))]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
