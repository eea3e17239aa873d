"""The Hopper kernels compiled to machine code for an H100 that is not there: registers, shared memory, temporaries."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from bench import gpu_static
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from moejax_kernels.grouped_matmul.api import grouped_gated_matmul, grouped_matmul
from moejax_kernels.hopper import limits
from moejax_kernels.hopper.ahead_of_time import compile_for_h100

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(importlib.util.find_spec(name) for name in PLUGINS),
        reason="no CUDA plugin of jax to compile for an H100 with: pip install 'moejax[gpu-aot]'",
    ),
]


@pytest.mark.parametrize("model", sorted(gpu_static.MODELS))
@pytest.mark.parametrize("op", gpu_static.OPS)
def test_kernels_compile_without_spills_and_as_our_model_says(op, model):
    row = gpu_static.record(op, model, None)
    assert row["spill_stores"] == row["spill_loads"] == 0
    assert row["shared_bytes"] == row["shared_bytes_by_our_model"] <= limits.SHARED_BYTES
    assert row["blocks_per_multiprocessor"] >= (1 if op.startswith("lowrank") else 2)
    assert row["matrix_instructions"] >= 4
    assert row["temporary_bytes"] < 1 << 16  # lists of tiles; no operand is copied


@pytest.mark.parametrize("model", sorted(gpu_static.MODELS))
def test_gradients_compile_without_spills_or_copies(model):
    rows, width, hidden, experts = gpu_static.MODELS[model]
    x, w = ((rows, width), jnp.bfloat16), ((experts, width, hidden), jnp.bfloat16)

    def loss(x, gate, up, sizes):
        return jnp.sum(grouped_gated_matmul(x, gate, up, sizes, implementation="pallas_gpu").astype(jnp.float32) ** 2)

    compiled, kernels = gpu_static.compiled_with_record(jax.grad(loss, (0, 1, 2)), (x, w, w, ((experts,), jnp.int32)))
    assert len(kernels) >= 3
    assert all(kernel["spill_stores"] == kernel["spill_loads"] == 0 for kernel in kernels)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < 8 * rows * (hidden + width) * 4  # activations and their gradients, not groups times rows


def test_a_dense_masked_product_is_caught_by_its_temporaries():
    """`lax.ragged_dot` becomes a masked product there, with a copy of x per group: the bound above must tell it."""
    rows, width, hidden, experts = gpu_static.MODELS["vmoe"]
    operands = (((rows, width), jnp.bfloat16), ((experts, width, hidden), jnp.bfloat16), ((experts,), jnp.int32))
    masked = compile_for_h100(jax.lax.ragged_dot, *operands)
    assert masked.memory_analysis().temp_size_in_bytes >= experts * rows * width * 2


def test_compilation_tells_shared_memory_over_the_limit():
    def kernel(x):
        def run(x_ref, out_ref):
            def scope(box, arrived):
                plgpu.copy_gmem_to_smem(x_ref, box, arrived)
                plgpu.barrier_wait(arrived)
                plgpu.copy_smem_to_gmem(box, out_ref)
                plgpu.wait_smem_to_gmem(0)

            pl.run_scoped(scope, plgpu.SMEM(x.shape, x.dtype), plgpu.Barrier())

        return plgpu.kernel(run, out_type=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    compile_for_h100(kernel, ((256, 128), jnp.float32))
    with pytest.raises(ValueError, match=r"exceeds available shared memory.*232448"):
        compile_for_h100(kernel, ((256, 256), jnp.float32))


def test_compilation_tells_spills(monkeypatch):
    """192 sums per thread beside an activation do not stay in registers: what our limit refuses would spill."""
    monkeypatch.setattr(limits, "ACCUMULATORS", 192)

    def run(x, w, sizes):
        return grouped_matmul(x, w, sizes, activation="gelu", implementation="pallas_gpu", tiling=(192, 64, 128, 2))

    operands = (((512, 512), jnp.bfloat16), ((2, 512, 512), jnp.bfloat16), ((2,), jnp.int32))
    _, (kernel,) = gpu_static.compiled_with_record(run, operands)
    assert kernel["spill_stores"] > 0
