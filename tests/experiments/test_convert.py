"""Weights through the command line: into runs that evaluate and train on, out of them again, and wrong command lines."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.interop import jaxexport, safetensors, vit_npz, vmoe
from moejax.interop.contract import Foreign, check_options, format_named, formats
from moejax.train import run_format
from moejax.train.checkpoints import load_run
from moejax.train.initialise import initialise_from, read_source
from tests.child_programs import output_of

CONFIG = {
    "name": "vit", "image_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 12, "num_classes": 5,
}  # fmt: skip
MOE = {
    "router": {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "renormalize": True},
    "experts": {"name": "mlp", "expert_dim": 12},
}
UPCYCLE = [["moe/experts", "copy_experts"], ["moe/router", "fresh"]]


def foreign(seed=0, **fields):
    model = build_method("models", {**CONFIG, **fields})
    params, state = model.init(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    params = jax.tree.unflatten(
        structure, [jax.random.normal(k, a.shape) / 3 for k, a in zip(keys, leaves, strict=True)]
    )
    return Foreign(model={**CONFIG, **fields}, params=params, state=state, step=3)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def convert(root, monkeypatch):
    """The main, its flags set by keywords."""
    monkeypatch.syspath_prepend(str(root / "experiments"))
    from absl import flags

    spec = importlib.util.spec_from_file_location("convert_main", root / "experiments" / "convert.py")
    module = importlib.util.module_from_spec(spec)
    before = set(flags.FLAGS)
    spec.loader.exec_module(module)

    def run(**given):
        arguments = [
            "convert",
            *(f"--{k.rstrip('_')}={v}" for k, vs in given.items() for v in (vs if isinstance(vs, list) else [vs])),
        ]
        flags.FLAGS.unparse_flags()
        flags.FLAGS(arguments)
        module.convert()

    run.module = module
    yield run
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_a_foreign_checkpoint_becomes_a_run_and_goes_back(convert, tmp_path, capsys):
    source = foreign(moe=MOE, moe_layers=[1])
    vmoe.write(source, tmp_path / "theirs")
    model = [f"moe.router.{k}={v}" for k, v in (("renormalize", "true"), ("num_selected_experts", "2"))]
    convert(
        from_="vmoe", input=tmp_path / "theirs", to="run", output=tmp_path / "run", model=model, write="data=patchwork"
    )
    assert "note: the weights do not tell the capacity" in capsys.readouterr().out
    config, params, state, step = load_run(tmp_path / "run", "last")
    same(params, source.params)
    assert config["data"]["name"] == "patchwork" and config["model"]["moe"]["router"]["renormalize"] is True
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config and step == 0
    convert(from_="run", input=tmp_path / "run", to="vmoe", output=tmp_path / "again", read="which=last")
    for name in ("theirs", "again"):
        assert (tmp_path / f"{name}.data-00000-of-00001").is_file()
    same(vmoe.read(tmp_path / "again").params, source.params)
    convert(from_="run", input=tmp_path / "run", to="safetensors", output=tmp_path / "ours.safetensors")
    found = safetensors.read(tmp_path / "ours.safetensors")
    same(found.params, source.params)
    assert found.model == config["model"] and found.step == 0
    with pytest.raises(SpecError, match="exists; nothing is overwritten"):
        convert(from_="run", input=tmp_path / "run", to="vmoe", output=tmp_path / "again")


def test_a_dense_vit_is_upcycled_and_computes_the_same(convert, tmp_path, capsys):
    source = foreign()
    vit_npz.write(source, tmp_path / "dense.npz", naming="vision_transformer")
    target = ["moe_layers=[1]", f"moe={json.dumps(MOE)}"]
    convert(from_="vit_npz", input=tmp_path / "dense.npz", to="safetensors", output=tmp_path / "moe.safetensors", target=target,
            rules=json.dumps(UPCYCLE))  # fmt: skip
    assert (
        "blocks/01/moe/experts/up/kernel matches 'moe/experts' -> CopyExperts(noise_std=0.0)" in capsys.readouterr().out
    )
    made = safetensors.read(tmp_path / "moe.safetensors")
    images = jax.random.normal(jax.random.key(5), (2, 8, 8, 3))
    outputs = [
        np.asarray(f.spec.apply(jax.tree.map(jnp.asarray, f.params), f.state, images).logits) for f in (source, made)
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)


def test_a_run_starts_from_a_foreign_checkpoint_by_rules(tmp_path):
    source = foreign()
    vit_npz.write(source, tmp_path / "dense.npz")
    config = {**CONFIG, "image_size": 16, "num_classes": 7, "moe": MOE, "moe_layers": [1]}
    fresh, state = build_method("models", config).init(jax.random.key(7))
    rules = (*(tuple(rule) for rule in UPCYCLE), ("^embedding/positions", "resize_positions"))
    restored = read_source(f"vit_npz:{tmp_path / 'dense.npz'}", "best")
    made, _ = initialise_from(fresh, state, restored, reinitialise=("^head",), rules=rules)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, fresh)
    mlp = source.params["blocks"]["00-01"]["feed_forward"]["up"].kernel[1]
    np.testing.assert_array_equal(made["blocks"]["01"]["moe"]["experts"]["up"].kernel[3], mlp)
    np.testing.assert_array_equal(made["head"].kernel, fresh["head"].kernel)
    with pytest.raises(SpecError, match="Did you mean 'vit_npz'"):
        read_source(f"vit_npy:{tmp_path / 'dense.npz'}", "best")


WRITE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from moejax.core.spec import build_method
from moejax.interop import jaxexport
from moejax.interop.contract import Foreign
draw = np.random.default_rng(0)
pictures = draw.normal(size=(3, 8, 8, 3)).astype(np.float32)
inputs = {
    "vit": [pictures],
    "dit": [pictures, np.float32([0.1, 0.5, 0.9]), np.int32([0, 4, 2])],
    "decoder": [draw.integers(0, 11, (3, 6), np.int32)],
}
for path, model, options in json.loads(sys.argv[1]):
    spec = build_method("models", model)
    params, state = spec.init(jax.random.key(0))
    params = jax.tree.map(lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), params)
    jaxexport.write(Foreign(model=model, params=params, state=state), path, **options)
    given = inputs[model["name"]]
    out = spec.apply(params, state, *map(jnp.asarray, given))
    expected = {"prediction": out.prediction, "variance": out.variance} if model["name"] == "dit" else {"logits": out.logits}
    np.savez(path + ".npz", *given, **expected)
"""
CALL = """
import sys
import jax, jax.export, numpy as np, safetensors.numpy
for path in sys.argv[1:]:
    program = jax.export.deserialize(bytearray(open(path, "rb").read()))
    data = dict(np.load(path + ".npz"))
    given = [data.pop(name) for name in sorted(data) if name.startswith("arr_")]
    found = program.call(safetensors.numpy.load_file(path + ".safetensors"), *given)
    found = found if isinstance(found, dict) else {"logits": found}
    assert found.keys() == data.keys()
    for name, expected in data.items():
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
        print(name, found[name].shape, program.platforms)
assert not any(name.startswith("moejax") for name in sys.modules)
"""
DIT = {
    "name": "dit", "image_size": 8, "patch_size": 4, "channels": 3, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16,
    "num_classes": 5, "learn_variance": True, "moe": MOE, "moe_layers": [1],
}  # fmt: skip
DECODER = {
    "name": "decoder", "vocab_size": 11, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16, "max_length": 9,
    "moe": MOE, "moe_layers": [1],
}  # fmt: skip


@pytest.mark.slow
def test_an_exported_forward_pass_needs_no_code_of_ours(tmp_path):
    pytest.importorskip("flatbuffers")  # with which jax writes programs
    sparse = {**CONFIG, "moe": MOE, "moe_layers": [1]}
    soft = {**sparse, "moe": {**MOE, "router": {"name": "soft", "num_experts": 4, "num_slots": 1}}}
    cases = [
        (str(tmp_path / "sparse"), sparse, {"batch": "3"}),
        (str(tmp_path / "any"), {**sparse, "moe": {**MOE, "dispatch": "einsum"}}, {"batch": "any"}),
        (str(tmp_path / "soft"), soft, {"batch": "any"}),
        (str(tmp_path / "dit"), DIT, {"batch": "3"}),
        (str(tmp_path / "decoder"), DECODER, {"batch": "3", "length": "6"}),
    ]
    for name, program in (("write.py", WRITE), ("call.py", CALL)):
        (tmp_path / name).write_text(program)
    output_of(tmp_path / "write.py", json.dumps(cases), devices=None)  # untyped: a batch of any size is no int
    printed = output_of(tmp_path / "call.py", *(path for path, _, _ in cases), devices=None)
    shapes = ["logits (3, 5)"] * 3 + ["prediction (3, 8, 8, 3)", "variance (3, 8, 8, 3)", "logits (3, 6, 11)"]
    assert printed.splitlines() == [f"{shape} ('cpu', 'cuda', 'tpu')" for shape in shapes]
    told = json.loads((tmp_path / "any.json").read_text())
    assert told["inputs"] == {"images": {"shape": ["any", 8, 8, 3], "dtype": "float32"}}
    assert told["output"] == {"shape": ["any", 5], "dtype": "float32"}
    assert list(json.loads((tmp_path / "dit.json").read_text())["inputs"]) == ["x", "time", "label"]


def test_exports_that_are_refused(tmp_path):
    for option, message in (
        ({"platforms": "cpu,cude"}, "Did you mean 'cuda'"),
        ({"batch": "0"}, "batch=0 must be at least 1"),
        ({"batch": "many"}, "must be 'any' or a whole number"),
    ):
        with pytest.raises(SpecError, match=message):
            jaxexport.write(foreign(), tmp_path / "no", **option)
    decoder = Foreign(model=DECODER, params={}, state={})
    for length, message in (
        ("ten", "length='ten' must be"),
        (10, "length=10 must be from 1 to the model's max_length=9"),
    ):
        with pytest.raises(SpecError, match=message):
            jaxexport.write(decoder, tmp_path / "no", length=length)
    assert not any(tmp_path.iterdir())


def test_scalars_come_back_as_scalars(tmp_path):
    moe = {**MOE, "router": {"name": "soft", "num_experts": 4, "num_slots": 1}}
    source = foreign(moe=moe, moe_layers=[1])
    safetensors.write(source, tmp_path / "soft.safetensors")
    found = safetensors.read(tmp_path / "soft.safetensors")
    same(found.params, source.params)
    assert found.params["blocks"]["01"]["moe"]["router"]["scale"].shape == () and found.step == 3


def test_safetensors_of_others_and_broken_metadata(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(SpecError, match="no export of moejax"):
        safetensors.read(tmp_path / "other.safetensors")
    save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors", metadata={"moejax": "1", "model": "{"})
    with pytest.raises(SpecError, match="metadata of .* are broken"):
        safetensors.read(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"from_": "vmo"}, "Did you mean 'vmoe'"),
        ({"to": "dit_mo"}, "Did you mean 'dit_moe'"),
        ({"from_": "jaxexport"}, "has no way to read"),
        ({"read": "prefx=a"}, "no option 'prefx'. Did you mean 'prefix'"),
        ({"write": "num_shard=2"}, "Did you mean 'num_shards'"),
        ({"write": "num_shards"}, "must be OPTION=VALUE"),
        ({"model": "num_heads"}, "must be KEY=VALUE"),
        ({"rules": "[1"}, "give .*regex"),
        ({"target": "dimm=4"}, "target.dimm is not a field of VisionTransformer.* Did you mean 'dim'"),
        ({"model": "moe.router.num_experts=5"}, "misshapen: Encoder/encoderblock_1/Moe/Router/dense/kernel"),
    ],
)
def test_wrong_command_lines(convert, tmp_path, flags, message):
    if not {"from_", "to", "read", "write"} & flags.keys():
        vmoe.write(foreign(moe=MOE, moe_layers=[1]), tmp_path / "in")
    given = {"from_": "vmoe", "input": tmp_path / "in", "to": "vmoe", "output": tmp_path / "out", **flags}
    with pytest.raises(SpecError, match=message):
        convert(**given)
    assert not (tmp_path / "out.index").exists()


def test_the_folder_is_the_registry():
    known = formats()
    assert {"vmoe", "vit_npz", "dit_moe", "safetensors", "jaxexport"} <= known.keys()
    for name, module in known.items():
        assert "\n" not in module.FORMAT and (hasattr(module, "read") or hasattr(module, "write")), name
    assert format_named("vmoe", known) is vmoe and "named_tensors" not in known
    with pytest.raises(SpecError, match="is no format"):
        format_named("run", known)
    check_options(run_format.read, {"which": "last"}, what="x")
