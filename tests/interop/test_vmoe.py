"""V-MoE's and Soft MoE's checkpoints: outputs against a slow forward pass, every file format, and broken files."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.tree import nest
from moejax.interop import vmoe
from moejax.interop.contract import Foreign
from moejax.interop.flax_msgpack import read_msgpack, write_msgpack
from moejax.interop.npz_arrays import read_npz, write_npz
from moejax.interop.vit_files import flat
from moejax.interop.vmoe_shards import write_shards

_PATH = pathlib.Path(__file__).with_name("official_vmoe.py")
_SPEC = importlib.util.spec_from_file_location("official_vmoe", _PATH)
official = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(official)

PICTURES = np.random.default_rng(7).normal(size=(2, 8, 8, 3)).astype(np.float32)
ROUTER = {"num_selected_experts": 2}


def sparse(**options):
    return official.weights(router="dense", moe_layers=(0, 2), **options)


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def logits(foreign):
    spec = foreign.spec
    params = jax.tree.map(jnp.asarray, foreign.params)
    return np.asarray(jax.jit(spec.apply)(params, foreign.state, jnp.asarray(PICTURES)).logits)


@pytest.mark.parametrize("capacity, priority", [(None, False), (2, False), (2, True)])
def test_v_moe_equals_the_published_forward_pass(capacity, priority, tmp_path):
    tensors = sparse(pre_logits=6, qk_norm=True)
    write_shards(nest(under("params/", tensors)), tmp_path / "ckpt_1", num_shards=2)
    # 5 tokens, K = 2, 4 experts: a factor of 0.8 is 0.8 * 5 * 2 / 4 = 2 slots.
    factor = None if capacity is None else 0.8
    router = {**ROUTER, "capacity_factor": factor, "batch_priority": priority}
    foreign = vmoe.read(tmp_path / "ckpt_1", model={"moe": {"router": router}})
    wanted = official.forward(tensors, PICTURES, capacity=capacity, priority=priority)
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(logits(foreign), wanted, atol=1e-5, rtol=1e-5)


def test_soft_moe_equals_the_published_forward_pass(tmp_path):
    tensors = official.weights(router="soft", moe_layers=(1, 2), pool="avg", seed=3)
    write_npz(under("params/", tensors), tmp_path / "soft.npz")
    foreign = vmoe.read(tmp_path / "soft.npz")
    assert foreign.model["moe"]["router"] == {"name": "soft", "num_experts": 4, "num_slots": 2}
    np.testing.assert_allclose(logits(foreign), official.forward(tensors, PICTURES), atol=1e-5, rtol=1e-5)


def test_what_the_tensors_tell(tmp_path):
    write_npz(sparse(), tmp_path / "bare.npz")
    foreign = vmoe.read(tmp_path / "bare.npz")
    told = {"patch_size": 4, "dim": 8, "depth": 3, "num_heads": 2, "mlp_dim": 12, "num_classes": 5, "image_size": 8}
    told |= {"pooling": "cls", "positions": "learned", "moe_layers": [0, 2], "representation_size": None}
    assert told.items() <= foreign.model.items()
    assert foreign.model["moe"]["experts"] == {"name": "mlp", "expert_dim": 10}
    assert any("num_selected_experts=2 is assumed" in note for note in foreign.notes)
    given = {"moe": {"router": {"num_selected_experts": 1, "capacity_factor": 1.0}, "group_size": 10}}
    again = vmoe.read(tmp_path / "bare.npz", model=given)
    assert again.spec.moe.router.num_selected_experts == 1 and again.spec.moe.group_size == 10 and not again.notes
    choice = vmoe.read(
        tmp_path / "bare.npz",
        model={"moe": {"router": {"name": "expert_choice", "num_experts": 4, "capacity_factor": 1.0}}},
    )
    assert type(choice.spec.moe.router).__name__ == "ExpertChoiceRouter"


@pytest.mark.parametrize("file", ["ckpt_3", "ckpt.msgpack", "ckpt.npz"])
@pytest.mark.parametrize("router", ["dense", "soft"])
def test_round_trip_is_exact(file, router, tmp_path):
    tensors = official.weights(router=router, moe_layers=(1,), seed=5)
    write_npz(tensors, tmp_path / "source.npz")
    foreign = vmoe.read(tmp_path / "source.npz")
    vmoe.write(foreign, tmp_path / file, **({"num_shards": "4"} if file == "ckpt_3" else {}))
    again = vmoe.read(tmp_path / file)
    jax.tree.map(np.testing.assert_array_equal, foreign.params, again.params)
    vmoe.write(again, tmp_path / "last.npz")
    back = read_npz(tmp_path / "last.npz")
    assert back.keys() == under("params/", tensors).keys()
    for name, tensor in tensors.items():
        assert back[f"params/{name}"].tobytes() == tensor.tobytes(), name


def test_banks_are_cut_along_their_experts(tmp_path):
    foreign = reading(tmp_path, sparse())
    vmoe.write(foreign, tmp_path / "ckpt", num_shards=2)
    entry = read_msgpack(tmp_path / "ckpt.index")["index"]["params"]["Encoder"]["encoderblock_0"]["Moe"]["Mlp"]
    kernel = entry["Dense_0"]["kernel"]
    assert kernel.boxes == (((0, 2), (0, 8), (0, 10)), ((2, 4), (0, 8), (0, 10))) and kernel.shards == (0, 1)


def reading(tmp_path, tensors, **options):
    write_npz(tensors, tmp_path / "source.npz")
    return vmoe.read(tmp_path / "source.npz", **options)


def test_the_optimiser_is_left_out_and_said_so(tmp_path):
    tensors = sparse()
    state = under("params/", tensors) | under("opt_state/0/mu/", tensors) | {"step": np.int32(77)}
    write_shards(nest(state), tmp_path / "sharded", num_shards=2)
    write_msgpack(nest(state), tmp_path / "whole.msgpack")
    for name in ("sharded", "whole.msgpack"):
        foreign = vmoe.read(tmp_path / name)
        assert foreign.step == 77
        assert f"left out, the optimiser's among them where there is one (opt_state: {len(tensors)}" in foreign.notes[0]
        assert official.forward(tensors, PICTURES).shape == logits(foreign).shape


def test_half_precision_is_read(tmp_path):
    tensors = {name: jnp.asarray(tensor, jnp.bfloat16) for name, tensor in sparse().items()}
    write_shards(nest({n: np.asarray(t) for n, t in tensors.items()}), tmp_path / "half", num_shards=1)
    foreign = vmoe.read(tmp_path / "half")
    np.testing.assert_array_equal(foreign.params["head"].kernel, np.asarray(tensors["head/kernel"], np.float32))


def test_heads_that_are_merged_are_given(tmp_path):
    tensors = sparse()
    merged = {
        name: t.reshape(-1, 8) if name.endswith("out/kernel") else t.reshape(*t.shape[:-2], 8)
        if "SelfAttention" in name and "out" not in name else t
        for name, t in tensors.items()
    }  # fmt: skip
    with pytest.raises(SpecError, match="heads merged; give model num_heads"):
        reading(tmp_path, merged)
    foreign = reading(tmp_path, merged, model={"num_heads": 2})
    jax.tree.map(np.testing.assert_array_equal, foreign.params, reading(tmp_path, tensors).params)


def test_a_new_head_where_there_is_none(tmp_path):
    tensors = {name: tensor for name, tensor in sparse().items() if not name.startswith("head")}
    with pytest.raises(SpecError, match="lacks 'head/bias'"):
        reading(tmp_path, tensors)
    foreign = reading(tmp_path, tensors, model={"num_classes": 9})
    assert foreign.params["head"].kernel.shape == (8, 9) and not foreign.params["head"].kernel.any()


def test_broken_files(tmp_path):
    write_shards(nest(under("params/", sparse())), tmp_path / "ckpt", num_shards=3)
    shard = tmp_path / "ckpt.data-00001-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(SpecError, match=r"data-00001-of-00003 \(\d+ bytes\) is truncated or no msgpack"):
        vmoe.read(tmp_path / "ckpt")
    shard.unlink()
    with pytest.raises(SpecError, match="1 of 3 shards are missing: .*data-00001-of-00003"):
        vmoe.read(tmp_path / "ckpt")
    shard.write_bytes((tmp_path / "ckpt.data-00000-of-00003").read_bytes())
    with pytest.raises(SpecError, match="lacks the slice .* index and shards are not of one checkpoint"):
        vmoe.read(tmp_path / "ckpt.index")
    with pytest.raises(SpecError, match=r"neither .*nowhere nor .*nowhere.index exists"):
        vmoe.read(tmp_path / "nowhere")
    (tmp_path / "whole.msgpack").write_bytes(b"\x85\xa1")
    with pytest.raises(SpecError, match="truncated or no msgpack"):
        vmoe.read(tmp_path / "whole.msgpack")


def test_an_index_that_leaves_a_part_out(tmp_path):
    write_shards(nest(sparse()), tmp_path / "ckpt", num_shards=2)
    index = msgpack.unpackb((tmp_path / "ckpt.index").read_bytes(), strict_map_key=False)
    bank = index["index"]["Encoder"]["encoderblock_0"]["Moe"]["Mlp"]["Dense_0"]
    shaped, boxes, shards = msgpack.unpackb(bank["kernel"].data, raw=True)
    bank["kernel"] = msgpack.ExtType(8, msgpack.packb((shaped, boxes[:1], shards[:1])))
    (tmp_path / "ckpt.index").write_bytes(msgpack.packb(index))
    with pytest.raises(SpecError, match="do not make up its"):
        vmoe.read(tmp_path / "ckpt")
    index["version"] = "20990101"
    (tmp_path / "ckpt.index").write_bytes(msgpack.packb(index))
    with pytest.raises(SpecError, match="has version '20990101'"):
        vmoe.read(tmp_path / "ckpt")


@pytest.mark.parametrize("ext", [9, 1])
def test_other_extension_types_and_objects_are_refused(ext, tmp_path):
    data = msgpack.packb((2,), use_bin_type=True) if ext == 9 else msgpack.packb(((2,), "object", b"\0" * 16))
    (tmp_path / "odd.msgpack").write_bytes(msgpack.packb({"params": msgpack.ExtType(ext, data)}))
    with pytest.raises(SpecError, match="extension type 9" if ext == 9 else "dtype 'object'"):
        vmoe.read(tmp_path / "odd.msgpack")


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    tensors = sparse()
    tensors["Encoder/encoderblock_1/Extra/kernel"] = np.zeros((3, 3), np.float32)
    tensors["Encoder/encoderblock_1/Mlp/Dense_1/kernel"] = np.zeros((12, 7), np.float32)
    del tensors["Encoder/encoderblock_2/LayerNorm_1/scale"]
    with pytest.raises(SpecError) as error:
        reading(tmp_path, tensors)
    for line in (
        "unexpected: Encoder/encoderblock_1/Extra/kernel [3, 3]",
        "misshapen: Encoder/encoderblock_1/Mlp/Dense_1/kernel is [12, 7], and the model needs [12, 8]",
        "missing: Encoder/encoderblock_2/LayerNorm_1/scale [8]",
    ):
        assert line in str(error.value)


def test_trees_that_make_no_model(tmp_path):
    with pytest.raises(SpecError, match="no vision transformer is under"):
        reading(tmp_path, {"a/b": np.zeros(3)})
    tensors = sparse()
    gap = {name.replace("encoderblock_1", "encoderblock_7"): tensor for name, tensor in tensors.items()}
    with pytest.raises(SpecError, match=r"lacks the blocks \[1, 3, 4, 5, 6\] of 8"):
        reading(tmp_path, gap)
    name = "Encoder/encoderblock_2/Moe/Mlp/Dense_0/bias"
    with pytest.raises(SpecError, match="the MoE layers differ in"):
        reading(tmp_path, tensors | {name: np.zeros((6, 10), np.float32)})
    with pytest.raises(SpecError, match="Blocks were found under .*other/Encoder"):
        reading(tmp_path, under("other/", tensors))
    assert reading(tmp_path, under("other/", tensors), prefix="other/").spec.depth == 3


def test_models_that_the_format_cannot_hold(tmp_path):
    foreign = reading(tmp_path, sparse())
    conv = Foreign(model={**foreign.model, "stem": "conv"}, params=foreign.params, state=foreign.state)
    with pytest.raises(SpecError, match="it needs stem='patch'"):
        vmoe.write(conv, tmp_path / "no")
    with pytest.raises(SpecError, match="num_shards='two' must be a whole number"):
        vmoe.write(foreign, tmp_path / "no", num_shards="two")
    assert flat(nest({"a/b": np.zeros(1)})).keys() == {"a/b"}
