"""Each level that checks the Hopper kernels without a GPU catches a kernel broken for it.

interpreter: wrong values, and races told by its detector. lowering (no CUDA plugin): what the backend has no rule for.
Compilation to machine code, with its own broken kernels, is in test_gpu_aot.py.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from moejax_kernels import _compat
from moejax_kernels.grouped_matmul import pallas_gpu, pallas_gpu_outer
from moejax_kernels.grouped_matmul.api import grouped_gated_matmul, grouped_matmul, grouped_outer
from moejax_kernels.hopper import row_tiles
from moejax_kernels.hopper.ahead_of_time import KIND

from tests.kernels.numpy_oracle import outer, product

pytestmark = pytest.mark.slow

SMALL = {"implementation": "pallas_gpu", "interpret": True, "tiling": (64, 64, 64, 2, 2)}


def doubled_through_shared_memory(x, *, waits, interpret):
    """x + x by one block that copies x to shared memory and back."""

    def body(x_ref, out_ref):
        @functools.partial(pl.run_scoped, box=plgpu.SMEM(x.shape, x.dtype), arrived=plgpu.Barrier())
        def _(box, arrived):
            plgpu.copy_gmem_to_smem(x_ref, box, arrived)
            if waits:
                plgpu.barrier_wait(arrived)
            box[...] = box[...] + box[...]
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(box, out_ref)
            plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(body, out_type=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=interpret)(x)


def told_of_races(run, capfd):
    """What the race detector says: newer interpreters raise it, jax 0.10 prints it beside a right answer."""
    try:
        jax.block_until_ready(run())
    except Exception as error:  # an interpreter's callback wraps it in types of its own
        return str(error) + "".join(capfd.readouterr())
    return "".join(capfd.readouterr())


def test_interpreter_tells_a_missing_wait(capfd):
    x = jnp.ones((64, 64), jnp.float32)
    checked = _compat.gpu_interpreter_params()(detect_races=True)
    good = told_of_races(lambda: doubled_through_shared_memory(x, waits=True, interpret=checked), capfd)
    assert "RACE" not in good
    bad = told_of_races(lambda: doubled_through_shared_memory(x, waits=False, interpret=checked), capfd)
    assert "RACE DETECTED" in bad
    _compat.reset_gpu_interpreter()


def small_operands():
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((40, 64), (2, 64, 64), (40, 64))]
    return *arrays, (13, 20)


def test_interpreter_tells_rows_of_other_groups_left_in_a_sum(monkeypatch):
    x, _, y, sizes = small_operands()
    monkeypatch.setattr(pallas_gpu_outer, "_clear_others", lambda *_, **__: None)
    got = np.asarray(grouped_outer(x, y, jnp.array(sizes, jnp.int32), **SMALL), np.float64)
    assert np.abs(got - outer(x, y, sizes)).max() > 0.5


def test_interpreter_tells_rows_written_for_another_group(monkeypatch):
    x, w, y, sizes = small_operands()

    def from_the_first_row(*told):
        tiles = row_tiles.row_tiles(*told)
        return tiles.at[row_tiles.SKIP].set(0).at[row_tiles.COUNT].add(tiles[row_tiles.SKIP])

    monkeypatch.setattr(pallas_gpu, "row_tiles", from_the_first_row)
    got = np.asarray(grouped_matmul(x, w, jnp.array(sizes, jnp.int32), **SMALL), np.float64)
    assert np.abs(got - product(x, w, None, sizes, y)[0]).max() > 0.5


def lowered_for_h100(function, *operands, kind=KIND):
    """The program for CUDA as text, lowered without a CUDA plugin."""
    chip = _compat.abstract_gpu(kind)
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("device",), axis_types=automatic, abstract_device=chip)
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in operands]
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.export.export(jax.jit(function), platforms=["cuda"])(*structs).mlir_module()


X, Y, W, SIZES = (
    ((512, 128), jnp.bfloat16),
    ((512, 256), jnp.bfloat16),
    ((4, 128, 256), jnp.bfloat16),
    ((4,), jnp.int32),
)
NAMED = {"implementation": "pallas_gpu"}


def test_kernels_and_gradients_lower_for_cuda():
    def loss(x, w, sizes):
        return grouped_matmul(x, w, sizes, activation="gelu", **NAMED).astype(jnp.float32).sum()

    def gated(x, gate, up, sizes):
        return grouped_gated_matmul(x, gate, up, sizes, **NAMED)

    text = lowered_for_h100(jax.grad(loss, (0, 1)), X, W, SIZES)
    assert text.count("mosaic_gpu") >= 3  # the product, and the gradients in x and w
    assert "mosaic_gpu" in lowered_for_h100(gated, X, W, W, SIZES)


@pytest.mark.parametrize(
    ("shape", "body", "told"),
    [
        ((64, 64), lambda x: jnp.sort(x, axis=1), "Unimplemented primitive.*sort"),
        ((60, 100), lambda x: x + x, "."),  # not a power of two of elements per thread
    ],
)
def test_lowering_tells_what_the_backend_cannot_do(shape, body, told):
    def kernel(x):
        def run(x_ref, out_ref):
            out_ref[...] = body(x_ref[...])

        params = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)
        return plgpu.kernel(run, out_type=jax.ShapeDtypeStruct(shape, jnp.float32), compiler_params=params)(x)

    with pytest.raises((NotImplementedError, ValueError), match=told):
        lowered_for_h100(kernel, (shape, jnp.float32))


def test_lowering_tells_a_tile_of_rows_at_no_multiple_of_eight(monkeypatch):
    """The copy engine lays 8 rows out together: a tile that begins in between has no address."""
    monkeypatch.setattr(pallas_gpu, "ALIGNED", 1)
    with pytest.raises(ValueError, match="layouts"):
        lowered_for_h100(functools.partial(grouped_matmul, **NAMED), X, W, SIZES)


def test_activations_and_transposes_lower_for_cuda():
    for transposed, activation in itertools.product((False, True), (None, "gelu_exact")):
        w = ((4, 256, 128), jnp.bfloat16) if transposed else W
        run = functools.partial(grouped_matmul, transposed=transposed, activation=activation, **NAMED)
        assert "mosaic_gpu" in lowered_for_h100(run, X, w, SIZES)


@pytest.mark.parametrize("kind", ["NVIDIA A100-SXM4-80GB", "NVIDIA B200"])
def test_other_gpus_take_xla_and_are_told_so(kind):
    with pytest.raises(ValueError, match=f"traced for '{kind}'; take implementation='xla'"):
        lowered_for_h100(functools.partial(grouped_matmul, **NAMED), X, W, SIZES, kind=kind)
    assert "mosaic_gpu" not in lowered_for_h100(grouped_matmul, X, W, SIZES, kind=kind)


def test_lowers_inside_shard_map():
    mesh = jax.sharding.AbstractMesh((4,), ("expert",), abstract_device=_compat.abstract_gpu(KIND))
    spec = jax.sharding.PartitionSpec("expert")

    def run(x, w, sizes):
        return jax.grad(lambda *a: jnp.sum(grouped_matmul(*a, sizes, **NAMED).astype(jnp.float32)), (0, 1))(x, w)

    sharded = jax.shard_map(run, mesh=mesh, in_specs=(spec, spec, spec), out_specs=(spec, spec))
    along = jax.sharding.NamedSharding(mesh, spec)
    structs = [jax.ShapeDtypeStruct(*operand, sharding=along) for operand in (X, W, SIZES)]
    with jax.sharding.use_abstract_mesh(mesh):
        exported = jax.export.export(jax.jit(sharded), platforms=["cuda"])(*structs)
    assert "mosaic_gpu" in exported.mlir_module()
