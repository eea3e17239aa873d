"""Tiny random models of Transformers, recorded, against ours; where Transformers is installed, live and both ways.

Recorded by transformers_models.py beside this file; versions are in the metadata of recorded/*/said.safetensors.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.interop import language_models
from moejax.interop.representable import check_same
from moejax.models.decoding import generate
from moejax.models.sizes import LANGUAGE

HERE = pathlib.Path(__file__).parent
FORMATS = {
    "mixtral": "mixtral",
    "qwen2_moe": "qwen_moe",
    "qwen3_moe": "qwen_moe",
    "olmoe": "olmoe",
    "deepseek": "deepseek_moe",
}
FAMILIES = pytest.mark.parametrize("family", FORMATS)


def neighbour(name):
    """A module beside this file, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = neighbour("transformers_models")


@functools.cache
def loaded(family):
    return language_models.load(HERE / "recorded" / family)


def logits_of(found, tokens):
    params = jax.tree.map(jnp.asarray, found.params)
    return np.asarray(jax.jit(found.model.apply)(params, found.state, jnp.asarray(tokens, jnp.int32)).logits)


def copied(tmp_path, family="mixtral", **config):
    """A folder of our own with the recorded checkpoint; a config field that is ... is taken out."""
    folder = tmp_path / "model"
    shutil.copytree(HERE / "recorded" / family, folder)
    (folder / "said.safetensors").unlink()
    fields = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))
    return folder


@FAMILIES
def test_logits_are_those_that_transformers_gave(family):
    said = load_file(HERE / "recorded" / family / "said.safetensors")
    np.testing.assert_allclose(logits_of(loaded(family), theirs.prompts()), said["logits"], atol=1e-4, rtol=0)


@FAMILIES
def test_greedy_tokens_are_those_that_transformers_wrote(family):
    said, found = load_file(HERE / "recorded" / family / "said.safetensors"), loaded(family)
    prompts = jnp.asarray(theirs.prompts(), jnp.int32)
    write = jax.jit(functools.partial(generate, found.model, steps=theirs.STEPS))
    written = write(jax.tree.map(jnp.asarray, found.params), found.state, prompts)
    np.testing.assert_array_equal(written.tokens, said["greedy"])


@FAMILIES
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_what_is_written_is_what_was_read(tmp_path, family, shard_bytes):
    found = loaded(family)
    params = split_segments(found.params) if shard_bytes < 10**9 else found.params
    files = language_models.save(
        params, found.model, tmp_path, family=FORMATS[family], stop_tokens=(3, 5), shard_bytes=shard_bytes
    )
    recorded = load_file(HERE / "recorded" / family / "model.safetensors")
    shards = [load_file(path) for path in files if path.suffix == ".safetensors"]
    assert sum(map(len, shards)) == len(recorded)
    for name, tensor in {name: tensor for shard in shards for name, tensor in shard.items()}.items():
        np.testing.assert_array_equal(tensor, recorded[name], err_msg=name)
    assert (tmp_path / "model.safetensors.index.json").exists() == (len(shards) > 1) == (shard_bytes < 10**9)
    again = language_models.load(tmp_path)
    assert (again.model, again.stop_tokens) == (found.model, (3, 5))
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)


def test_half_precision_in_files_and_in_memory(tmp_path):
    found = loaded("olmoe")
    language_models.save(found.params, found.model, tmp_path / "half", family="olmoe", dtype="bfloat16")
    assert language_models.load(tmp_path / "half", dtype="bfloat16").params["norm"]["scale"].dtype == "bfloat16"
    wide = language_models.load(tmp_path / "half").params["norm"]["scale"]
    assert wide.dtype == np.float32
    np.testing.assert_allclose(wide, found.params["norm"]["scale"], rtol=2**-8)


def test_specs_by_hand():
    mixtral, qwen = loaded("mixtral").model, loaded("qwen2_moe").model
    assert (mixtral.sliding_window, mixtral.num_kv_heads, mixtral.rope_base, mixtral.qk_norm) == (8, 2, 1e6, "none")
    assert mixtral.moe.router.renormalize
    assert mixtral.moe.shared is None
    assert (qwen.moe_indices, qwen.attention_bias, qwen.moe.shared_gate) == ((0, 2), "qkv", True)
    assert (qwen.moe.shared.expert_dim, qwen.moe.router.renormalize) == (20, False)
    qwen3 = loaded("qwen3_moe").model
    assert (qwen3.qk_norm, qwen3.head_dim, qwen3.tie_embeddings, qwen3.moe.shared) == ("head", 8, True, None)
    assert loaded("olmoe").model.qk_norm == "width"
    deepseek = loaded("deepseek").model
    assert (deepseek.moe_indices, deepseek.moe.shared.expert_dim, deepseek.moe.shared_gate) == ((1, 2), 24, False)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("mixtral", {"model_type": "llama"}, "model_type='llama' is no family that is read"),
        ("deepseek", {"model_type": "deepseek_v2"}, "multi-head latent attention"),
        ("mixtral", {"hidden_act": "gelu"}, "hidden_act='gelu' of Mixtral is not supported, only 'silu'"),
        ("mixtral", {"hidden_size": ...}, "config.json lacks 'hidden_size', which Mixtral needs"),
        ("mixtral", {"hidden_size": "24"}, "hidden_size='24' must be a whole number"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1"),
        ("mixtral", {"quantization_config": {"bits": 4}}, "Take the weights that are not quantised"),
        ("mixtral", {"logit_softcapping": 30.0}, "logit_softcapping of Mixtral not understood"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv=8.0 of OLMoE is not supported"),
        ("olmoe", {"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "type 'yarn' are not supported"),
        (
            "olmoe",
            {"rope_scaling": {"type": "linear", "factor": 2}},
            "rope_scaling=.*linear.* of OLMoE is not supported",
        ),
        ("qwen2_moe", {"use_sliding_window": True}, "use_sliding_window=True of Qwen2-MoE"),
        ("qwen2_moe", {"norm_topk_prob": 1}, "norm_topk_prob=1 must be true or false"),
        ("deepseek", {"scoring_func": "sigmoid"}, "scoring_func='sigmoid' of DeepSeekMoE"),
        ("deepseek", {"num_attention_heads": 5}, "num_heads=5"),
        ("qwen2_moe", {"mlp_only_layers": "x"}, "mlp_only_layers='x' must be a list of int"),
        ("qwen2_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step=0 must be within 1"),
        ("qwen2_moe", {"layer_types": ["sliding_attention"] * 3}, "only full attention in every layer"),
        ("mixtral", {"num_hidden_layers": 10**30}, "num_hidden_layers=.* must be within 0 and 10000"),
        ("mixtral", {"rms_norm_eps": float("inf")}, "rms_norm_eps=inf must be a finite number"),
        ("mixtral", {"eos_token_id": "</s>"}, "eos_token_id='</s>' must be a token or a list"),
    ],
)
def test_configs_that_are_not_understood(tmp_path, family, config, message):
    with pytest.raises(SpecError, match=message):
        language_models.load(copied(tmp_path, family, **config))


def test_older_and_newer_spellings_of_rotary_positions(tmp_path):
    old = copied(tmp_path, rope_parameters=..., rope_theta=5000.0, rope_scaling=None)
    assert language_models.load(old).model.rope_base == 5000.0


def test_every_tensor_that_does_not_fit_is_named(tmp_path):
    folder = copied(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = tensors.pop("model.norm.weight")
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"][:3])
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)  # of old versions: left out
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(SpecError) as error:
        language_models.load(folder)
    assert "missing: model.norm.weight [24]" in str(error.value)
    assert "unexpected: extra [24]" in str(error.value)
    assert "misshapen: lm_head.weight is [3, 24], and the model needs [64, 24]" in str(error.value)
    assert "rotary_emb" not in str(error.value)


def test_quantised_tensors_are_refused(tmp_path):
    folder = copied(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"] = np.ones((24, 24), np.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(SpecError, match="o_proj.weight holds int8, not float32"):
        language_models.load(folder)


def test_models_that_a_format_cannot_hold(tmp_path):
    found = loaded("mixtral")
    save = functools.partial(language_models.save, found.params, folder=tmp_path / "new", family="mixtral")
    with pytest.raises(SpecError, match="qk_norm: 'head' would be read as 'none'"):
        save(dataclasses.replace(found.model, qk_norm="head"))
    router = build_method("routing", {"name": "hash", "num_experts": 4})
    with pytest.raises(SpecError, match="router .HashRouter. has no num_selected_experts"):
        save(dataclasses.replace(found.model, moe=dataclasses.replace(found.model.moe, router=router)))
    tight = dataclasses.replace(found.model.moe.router, num_selected_experts=1, capacity_factor=1.0)
    with pytest.raises(SpecError, match="eval_capacity_factor"):
        save(dataclasses.replace(found.model, moe=dataclasses.replace(found.model.moe, router=tight)))
    with pytest.raises(SpecError, match=r"family='mistral' .* Did you mean 'mixtral'"):
        language_models.save(found.params, found.model, tmp_path / "new", family="mistral")
    assert not (tmp_path / "new").exists()
    other_order = dataclasses.replace(found.model.moe.router, order="top_k_then_softmax", renormalize=False)
    model = dataclasses.replace(found.model, moe=dataclasses.replace(found.model.moe, router=other_order), remat="full")
    save(model)
    assert language_models.load(tmp_path / "new").model == found.model


def test_parameters_that_have_no_place(tmp_path):
    found = loaded("mixtral")
    params = found.params | {"adapter": {"scale": np.ones(3)}}
    params.pop("norm")
    with pytest.raises(SpecError, match=r"missing: norm/scale\n  no place for: adapter/scale"):
        language_models.save(params, found.model, tmp_path / "new", family="mixtral")


ALIKE = {"hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True}
ALIKE |= {"torch_dtype": "bfloat16", "transformers_version": "4.39.0", "tie_word_embeddings": False, "bos_token_id": 1}
PUBLISHED = {  # config.json as it lies beside the released weights
    "Mixtral-8x7B": ALIKE
    | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096}
    | {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336}
    | {"num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0}
    | {"max_position_embeddings": 32768, "sliding_window": None, "output_router_logits": False}
    | {"router_aux_loss_coef": 0.02},
    "Qwen1.5-MoE-A2.7B": ALIKE
    | {"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "vocab_size": 151936, "hidden_size": 2048}
    | {"num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 5632}
    | {"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "norm_topk_prob": False}
    | {"shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
    | {"max_position_embeddings": 8192, "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21}
    | {"output_router_logits": False, "router_aux_loss_coef": 0.001},
    "OLMoE-1B-7B": ALIKE
    | {"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "vocab_size": 50304, "hidden_size": 2048}
    | {"num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 1024}
    | {
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    | {"max_position_embeddings": 4096, "rope_scaling": None, "attention_bias": False, "clip_qkv": None}
    | {"output_router_logits": False, "router_aux_loss_coef": 0.01, "pad_token_id": 1, "eos_token_id": 50279},
    "DeepSeekMoE-16B": ALIKE
    | {"model_type": "deepseek", "architectures": ["DeepseekForCausalLM"], "vocab_size": 102400, "hidden_size": 2048}
    | {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 10944}
    | {"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "n_shared_experts": 2}
    | {"first_k_dense_replace": 1, "moe_layer_freq": 1, "norm_topk_prob": False, "scoring_func": "softmax"}
    | {"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": None}
    | {"attention_bias": False, "aux_loss_alpha": 0.001, "seq_aux": True, "pretraining_tp": 1}
    | {"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"}},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_mean_the_published_sizes(name):
    config = PUBLISHED[name]
    module = language_models.FORMATS[FORMATS[config["model_type"]]]
    model = build_method("models", {"name": "decoder"} | LANGUAGE[name].fields)
    check_same(model, module.decoder(config), what=name)
    written = module.config_of(model)
    same = {field for field in config if field in written} - {
        "architectures",
        "torch_dtype",
        "bos_token_id",
        "eos_token_id",
    }
    assert len(same) > 12
    assert {field: written[field] for field in same} == {field: config[field] for field in same}


@pytest.mark.slow
@FAMILIES
def test_live_transformers_says_what_is_recorded(family):
    pytest.importorskip("transformers")
    model, logits = theirs.build(family)
    said, recorded = theirs.say(family, model, logits), load_file(HERE / "recorded" / family / "said.safetensors")
    np.testing.assert_allclose(said["logits"], recorded["logits"], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(said["greedy"], recorded["greedy"])


@pytest.mark.slow
@FAMILIES
def test_live_transformers_loads_what_we_write(tmp_path, family):
    transformers = pytest.importorskip("transformers")
    if family == "deepseek":
        pytest.skip("its code lives on the hub")
    import torch

    found = loaded(family)
    changed = jax.tree.map(lambda leaf: leaf * np.float32(1.1), found.params)
    language_models.save(changed, found.model, tmp_path, family=FORMATS[family], shard_bytes=30_000)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        said = model(torch.from_numpy(theirs.prompts())).logits.numpy()
    ours = logits_of(dataclasses.replace(found, params=changed), theirs.prompts())
    np.testing.assert_allclose(ours, said, atol=2e-4, rtol=0)
