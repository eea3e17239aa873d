"""Twenty steps of a small model on meshes of eight simulated devices and on one; prints JSON. Started by the tests.

  python tests/train/on_eight_devices.py top_k expert=4,data=2 fsdp=2,expert=2,model=2,data=1

Every line is [mesh, largest difference of losses, of parameters after the first step, after the last].
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import numpy as np

from moejax.core.spec import build_method
from moejax.sharding.mesh import MeshSpec
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train

ROUTERS = {
    "top_k": {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": 1.0,
              "batch_priority": True, "importance_loss_weight": 0.01, "load_loss_weight": 0.0},
    "dropless": {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": None,
                 "importance_loss_weight": 0.01, "load_loss_weight": 0.0},
    "expert_choice": {"name": "expert_choice", "num_experts": 4, "capacity_factor": 1.0},
    "soft": {"name": "soft", "num_experts": 4, "num_slots": 2},
}  # fmt: skip
STEPS, BATCH = 20, 16


def task_of(router, exchange):
    if router == "language":
        model = {
            "name": "decoder", "vocab_size": 24, "dim": 16, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 32,
            "max_length": 8, "moe_layers": "last1", "attention_bias": "qkv",
            "moe": {"router": ROUTERS["dropless"] | {"noise_std": 0.0}, "experts": {"name": "swiglu", "expert_dim": 32},
                    "shared": {"name": "swiglu", "expert_dim": 16}, "shared_gate": True, "exchange": exchange},
        }  # fmt: skip
        return build_method("tasks", {"name": "language", "model": model})
    model = {
        "name": "vit", "image_size": 8, "patch_size": 4, "channels": 3, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32,
        "num_classes": 5, "moe_layers": "last1",
        "moe": {"router": ROUTERS[router], "experts": {"name": "mlp", "expert_dim": 32}, "exchange": exchange},
    }  # fmt: skip
    return build_method("tasks", {"name": "classification", "model": model})


def batches(task):
    draw = np.random.default_rng(0)
    for _ in range(STEPS):
        if hasattr(task.model, "vocab_size"):
            tokens = draw.integers(0, 24, (BATCH, 9)).astype(np.int32)
            yield {"tokens": tokens[:, :-1], "target": tokens[:, 1:]}
            continue
        yield {
            "image": draw.normal(size=(BATCH, 8, 8, 3)).astype(np.float32),
            "label": draw.integers(0, 5, BATCH).astype(np.int32),
        }


def train(task, mesh, devices, fsdp="params"):
    """Losses [steps], parameters after the first and after the last step."""
    # At the pictures' rate roundings of 3e-8 grow to 2e-5 in a decoder within twenty steps.
    rate = 0.03 if hasattr(task.model, "vocab_size") else 0.1
    optimizer = Optimizer(name="sgd", learning_rate=rate, schedule="constant", momentum=0.9, clip_norm=1.0)
    spec = Train(steps=STEPS, mesh=mesh, fsdp=fsdp)
    program = Program(task, optimizer, spec, seed=0, batch_size=BATCH, mesh=mesh.build(devices))
    losses, kept = [], []
    with jax.set_mesh(program.mesh):
        state = program.init()
        for batch in batches(task):
            state, metrics = program.step(state, program.place(batch))
            losses.append(float(metrics["total_loss"]))
            if not kept:
                kept.append(jax.device_get(state.params))
    return np.asarray(losses), kept[0], jax.device_get(state.params)


def difference(one, other):
    return max(float(np.max(np.abs(a - b))) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def main(router, exchange, *meshes):
    task = task_of(router, exchange)
    alone = train(task, MeshSpec(), jax.devices()[:1])
    for sizes in meshes:
        name, _, fsdp = sizes.partition(":")
        mesh = MeshSpec(**{axis: int(size) for axis, size in (part.split("=") for part in name.split(","))})
        found = train(task, mesh, jax.devices(), fsdp or "params")
        print(
            json.dumps([sizes, *(difference(one, other) for one, other in zip(found, alone, strict=True))]), flush=True
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
