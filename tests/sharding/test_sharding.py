"""Rules, specs by leaf name, and meshes; the last test puts arrays on eight devices in a process of its own."""

from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.sharding.constraints import constrain
from moejax.sharding.mesh import AXIS_NAMES, MeshSpec
from moejax.sharding.rules import LEAF_AXES, Rules, leaf_axes_of, param_specs, shardings, specs_like, split_fully
from moejax.sharding.table import placed, table
from tests.child_programs import output_of

P = PartitionSpec


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


PARAMS = {
    "blocks": {
        "00-01": {"mlp": {"up": {"kernel": shape(2, 4, 8)}}},
        "02": {"moe": {"experts": {"up": {"kernel": shape(4, 4, 8)}, "down": {"kernel": shape(4, 8, 4)}}}},
    },
    "head": {"kernel": shape(4, 3)},
}


def test_rules_map_logical_axes():
    assert Rules().spec("batch", None, None) == P(("data", "fsdp", "expert"))
    assert Rules().spec("experts", None, "hidden") == P("expert", None, "model")
    assert Rules(experts=()).spec("experts", None, "hidden") == P(None, None, "model")


def test_collision_and_unknown_axes():
    with pytest.raises(SpecError, match="'batch' and 'experts' of one array both claim mesh axis 'expert'"):
        Rules().spec("batch", "experts")
    with pytest.raises(SpecError, match="Did you mean 'experts'"):
        Rules().spec("expert")
    with pytest.raises(SpecError, match="rules.batch: 'dat' is no mesh axis. Did you mean 'data'"):
        Rules(batch=("dat",))
    with pytest.raises(SpecError, match="twice"):
        Rules(batch=("data", "data"))


def test_param_specs_by_name():
    specs = param_specs(PARAMS, Rules())
    assert specs["blocks"]["02"]["moe"]["experts"]["up"]["kernel"] == P("expert", None, "model")
    assert specs["blocks"]["02"]["moe"]["experts"]["down"]["kernel"] == P("expert", "model")
    assert specs["blocks"]["00-01"]["mlp"]["up"]["kernel"] == P(None, None, "model")  # the layer axis stays whole
    assert specs["head"]["kernel"] == P()


def test_optimiser_state_follows_its_parameters():
    specs = param_specs(PARAMS, Rules())
    state = {
        "0": {"mu": PARAMS, "count": shape()},
        "v_row": {"blocks": {"02": {"moe": {"experts": {"up": {"kernel": shape(4, 4)}}}}}},
    }
    found = specs_like(state, PARAMS, specs)
    assert found["0"]["mu"]["blocks"]["02"]["moe"]["experts"]["up"]["kernel"] == P("expert", None, "model")
    assert found["0"]["count"] == P()
    assert found["v_row"]["blocks"]["02"]["moe"]["experts"]["up"]["kernel"] == P()  # another shape: replicated


def test_sizes_that_do_not_divide():
    mesh = AbstractMesh((1, 1, 3, 1), AXIS_NAMES, axis_types=(AxisType.Auto,) * 4)
    with pytest.raises(SpecError, match="down/kernel has an axis of 4, which 3 devices"):
        shardings(PARAMS, param_specs(PARAMS, Rules()), mesh)


def test_full_split_by_hand():
    specs = split_fully(PARAMS, param_specs(PARAMS, Rules()), 2)
    # 4 experts and 8 hidden units are taken, 4 inputs are left.
    assert specs["blocks"]["02"]["moe"]["experts"]["up"]["kernel"] == P("expert", "fsdp", "model")
    assert specs["blocks"]["02"]["moe"]["experts"]["down"]["kernel"] == P("expert", "model", "fsdp")
    # The layer axis of 2 is not split, the hidden axis of 8 is taken.
    assert specs["blocks"]["00-01"]["mlp"]["up"]["kernel"] == P(None, "fsdp", "model")
    assert specs["head"]["kernel"] == P("fsdp")  # 3 classes do not divide
    assert split_fully({"bias": shape(3)}, {"bias": P()}, 2)["bias"] == P()  # nothing does
    free = {"a": shape(6, 4, 6), "b": shape(2)}
    assert split_fully(free, {"a": P(None, "model"), "b": P()}, 4) == {"a": P(None, "model"), "b": P()}
    assert split_fully(free, {"a": P(), "b": P()}, 2) == {
        "a": P(None, None, "fsdp"),
        "b": P("fsdp"),
    }  # the last of equals


def test_table_by_hand():
    mesh = MeshSpec(data=1, fsdp=2, expert=2, model=2).abstract(8)
    specs = split_fully(PARAMS, param_specs(PARAMS, Rules()), 2)
    rows = placed(PARAMS, shardings(PARAMS, specs, mesh))
    by_name = {row.name: row for row in rows}
    up = by_name["blocks/02/moe/experts/up/kernel"]
    assert (up.split, up.bytes_per_device) == ("expert, fsdp, model", 4 * 4 * 4 * 8 // 8)
    assert by_name["head/kernel"] == ("head/kernel", (4, 3), "float32", "fsdp", 24)
    assert table(rows).splitlines()[0].split() == ["leaf", "shape", "split", "over", "bytes", "per", "device"]
    assert table(rows).splitlines()[-1].split() == ["sum", str(sum(row.bytes_per_device for row in rows))]


def test_mesh_without_devices():
    assert MeshSpec(data=-1, expert=4).abstract(32).shape == {"data": 8, "fsdp": 1, "expert": 4, "model": 1}
    with pytest.raises(
        SpecError, match="does not fit 32 devices; the sizes must multiply to that number, or one of them"
    ):
        MeshSpec(data=3, expert=4).abstract(32)


def test_slices_are_split_by_data_alone():
    devices = [mock.Mock(spec=jax.Device, slice_index=i // 4) for i in range(8)]
    with pytest.raises(SpecError, match="data=1 must be a multiple of the 2 slices"):
        MeshSpec(data=1, expert=8).build(devices)


def test_mesh_sizes():
    assert MeshSpec().build(jax.devices()[:1]).shape == {"data": 1, "fsdp": 1, "expert": 1, "model": 1}
    with pytest.raises(SpecError, match="expert=2, model=1 does not fit 1 devices; the sizes must multiply"):
        MeshSpec(expert=2).build(jax.devices()[:1])
    with pytest.raises(SpecError, match="only one axis may be -1"):
        MeshSpec(data=-1, expert=-1)
    with pytest.raises(SpecError, match="must be positive"):
        MeshSpec(model=0)


def test_constrain_without_a_mesh_is_the_identity():
    x = jnp.ones((2, 3))
    assert constrain(x, Rules(), "batch", None) is x


EIGHT = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from moejax.sharding.constraints import constrain
from moejax.sharding.mesh import MeshSpec
from moejax.sharding.rules import LEAF_AXES, Rules, leaf_axes_of, param_specs, shardings
mesh = MeshSpec(data=-1, expert=2, model=2).build()
assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "expert": 2, "model": 2}, mesh
params = {"moe": {"experts": {"up": {"kernel": jnp.arange(4 * 4 * 8.0).reshape(4, 4, 8)}}}}
placed = jax.device_put(params, shardings(params, param_specs(params, Rules()), mesh))
kernel = placed["moe"]["experts"]["up"]["kernel"]
# 4 experts over 2, 8 hidden over 2: each device holds [2, 4, 4].
assert kernel.addressable_shards[0].data.shape == (2, 4, 4), kernel.sharding
with jax.set_mesh(mesh):
    f = jax.jit(lambda w, x: constrain(jnp.einsum("ECD,EDF->ECF", x, w), Rules(), "experts", None, "hidden"))
    y = f(kernel, jnp.ones((4, 3, 4)))
assert y.sharding.spec == P("expert", None, "model"), y.sharding
assert jnp.array_equal(jax.device_get(y)[:, 0], params["moe"]["experts"]["up"]["kernel"].sum(1))
print("eight devices agree")
"""


def test_eight_devices():
    assert "eight devices agree" in output_of("-c", EIGHT)


def test_tables_of_tokens_are_split_over_the_vocabulary():
    params = {
        "embedding": {"tokens": shape(8, 4)},
        "blocks": {"00-01": {"attention": {"key": {"kernel": shape(2, 4, 4)}, "key_bias": shape(2, 4)}}},
        "head": {"kernel": shape(4, 8)},
    }
    decoder = build_method("models", {"name": "decoder", "vocab_size": 8, "dim": 4, "depth": 2, "num_heads": 2,
                                      "mlp_dim": 8, "max_length": 4})  # fmt: skip
    specs = param_specs(params, Rules(), leaf_axes=leaf_axes_of(decoder))
    assert specs["embedding"]["tokens"] == P("model") and specs["head"]["kernel"] == P(None, "model")
    assert specs["blocks"]["00-01"]["attention"]["key"]["kernel"] == P(None, None, "model")
    assert specs["blocks"]["00-01"]["attention"]["key_bias"] == P(None, "model")
    assert param_specs(params, Rules(vocab=()), leaf_axes=leaf_axes_of(decoder))["head"]["kernel"] == P()
    assert leaf_axes_of(None) == LEAF_AXES, "a classifier's head stays whole"
