"""A small sharded training step compiled for eight TPU chips and eight H100s that are not here, and what plan reads off it."""

import dataclasses

import pytest

from moejax.core.spec import build_method
from moejax.evals.summary import summarise
from moejax.planning import chips
from moejax.planning.estimate import estimate, verdict
from moejax.planning.step import compile_step, rows_per_chip
from moejax.sharding.mesh import MeshSpec
from moejax.tasks.classification import Classification
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train

BATCH, MESH = 16, MeshSpec(data=1, fsdp=2, expert=4)
SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "dim": 256,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 512,
    "num_classes": 7,
    "dtype": "bfloat16",
}
MACHINES = [
    pytest.param(
        name, marks=pytest.mark.skipif(not chips.can_compile(name), reason=f"no compiler for {name}; extra [{extra}]")
    )
    for name, extra in (("v5e:2x4", "tpu-aot"), ("h100:1x8", "gpu-aot"))
]


def model(capacity):
    router = {"name": "top_k", "num_experts": 8, "num_selected_experts": 2, "capacity_factor": capacity}
    moe = {"router": router, "experts": {"name": "mlp", "expert_dim": 512}}
    return build_method("models", {"name": "vit", "moe": moe, "moe_layers": "every2", "pooling": "avg"} | SIZES)


def compiled(topology, capacity):
    spec = model(capacity)
    task = Classification(model=spec)
    mesh = MESH.build(chips.devices(topology))
    program = Program(task, Optimizer(), Train(steps=10, mesh=MESH), seed=0, batch_size=BATCH, mesh=mesh)
    return spec, compile_step(program, task.batch_shapes(BATCH), rows=rows_per_chip(spec, BATCH, 8))


@pytest.mark.slow
@pytest.mark.skipif(not chips.can_compile("v5p:4x4x4"), reason="no compiler for v5p:4x4x4; extra [tpu-aot]")
def test_axes_may_take_a_side_and_a_half():
    mesh = MeshSpec(data=1, fsdp=8, expert=8).build(chips.devices("v5p:4x4x4"))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 8, "expert": 8, "model": 1}
    assert len({device.id for device in mesh.devices.flat}) == 64
    for ring in mesh.devices.reshape(8, 8):  # the experts' devices are neighbours: within two steps along each side
        spread = [max(device.coords[i] for device in ring) - min(device.coords[i] for device in ring) for i in range(3)]
        assert sorted(spread) in ([0, 1, 3], [1, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("topology", MACHINES)
def test_step_of_fixed_buffers(topology):
    spec, made = compiled(topology, 1.0)
    assert made.out_of_memory is None and made.peak > sum(made.held.values())
    # Of two pictures with 8 experts of 4 slots of 256 numbers, 3/4 leave: there, back, and the gradients alike.
    buffers = 2 * 8 * 4 * 256 * 2
    swaps = [one for one in made.collectives if one.kind == "all-to-all" and one.size == buffers]
    assert sum(one.sent for one in swaps) == 4 * buffers * 3 / 4
    assert made.compiler_seconds is None  # GPUs have none; on TPU it means nothing beside asynchronous operations
    cost = summarise(spec, batch_size=BATCH)
    arithmetic = cost.total("step_flops_per_example") + cost.total("step_padding_flops_per_example")
    assert made.products.unknown == 0
    assert 0.95 < made.products.total / (arithmetic * BATCH / 8) < 1.1

    chip = chips.parse(topology)[0]
    given = {"padding_flops": 0.0, "again_flops": 0.0, "activated_flops": 1.0, "activation_bytes": 0.0}
    assert estimate("", made, chip, **given).fits
    # A compiler for GPUs never says that memory runs out: it is compared with the chip's.
    small = dataclasses.replace(chip, memory=made.peak - 1)
    assert "short by" in verdict(estimate("", made, small, **given))


@pytest.mark.slow
@pytest.mark.parametrize("topology", MACHINES)
def test_step_of_rows(topology):
    spec, made = compiled(topology, None)
    rows = sum(one.sent for one in made.collectives if one.kind == "ragged-all-to-all")
    # 2 pictures of 16 tokens of 2 choices: 64 rows of 256 numbers there, back, and the gradients alike, 3/4 of them
    # away. (On TPU rows of 16-bit numbers are padded to multiples of 256.)
    assert rows == 4 * 64 * 256 * 2 * 3 / 4
    if made.products.unknown == 0:  # kernels for GPUs do not state their costs
        arithmetic = summarise(spec, batch_size=BATCH).total("step_flops_per_example") * BATCH / 8
        assert 0.95 < made.products.total / arithmetic < 1.15
