"""Tiny random language models of Hugging Face Transformers, what they say of a prompt, and the recording of both.

  python tests/interop/transformers_models.py        writes tests/interop/recorded/ again (needs moejax[parity])

DeepSeekMoE's own code lived on the hub; what equals it in Transformers is the text model of DeepSeek-OCR-2 (plain attention,
softmax, greedy top-k whose weights are not renormalised, shared experts), with a head put on it here.
"""

import json
import pathlib

import numpy as np

RECORDED = pathlib.Path(__file__).with_name("recorded")
STEPS = 32
SIZES = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "bos_token_id": None,
}
FAMILIES = {
    "mixtral": {
        "class": "Mixtral",
        "intermediate_size": 20,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
    },
    "qwen2_moe": {
        "class": "Qwen2Moe",
        "num_hidden_layers": 3,
        "intermediate_size": 28,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {
        "class": "Qwen3Moe",
        "head_dim": 8,
        "intermediate_size": 28,
        "moe_intermediate_size": 12,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
    },
    "olmoe": {"class": "Olmoe", "intermediate_size": 16, "num_experts": 6, "num_experts_per_tok": 3},
    "deepseek": {
        "class": "DeepseekOcr2Text",
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "intermediate_size": 28,
        "moe_intermediate_size": 12,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
}
DEEPSEEK_CONFIG = {
    "model_type": "deepseek",
    "architectures": ["DeepseekForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "aux_loss_alpha": 0.001,
    "seq_aux": True,
    "pretraining_tp": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def prompts():
    """Tokens [2 12]."""
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 12))


def build(family, seed=0):
    """(model, logits): a seeded model in evaluation, whose every number is drawn, and tokens [B T] -> logits [B T N]."""
    import torch
    import transformers

    fields = SIZES | {name: value for name, value in FAMILIES[family].items() if name != "class"}
    kind = FAMILIES[family]["class"]
    draw = torch.Generator().manual_seed(seed)
    if family == "deepseek":
        from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as code

        model = code.DeepseekOcr2TextModel(code.DeepseekOcr2TextConfig(**fields))
        model.lm_head = torch.nn.Linear(fields["hidden_size"], fields["vocab_size"], bias=False)
        logits = lambda tokens: model.lm_head(model(tokens, use_cache=False).last_hidden_state)  # noqa: E731
    else:
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**fields))
        logits = lambda tokens: model(tokens, use_cache=False).logits  # noqa: E731
    with torch.no_grad():
        for parameter in model.parameters():
            about = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(about + torch.randn(parameter.shape, generator=draw) * 0.4)
    return model.eval(), logits


def say(family, model, logits):
    """Logits of the prompts, and 32 greedy tokens after each."""
    import torch

    with torch.no_grad():
        tokens = torch.from_numpy(prompts())
        found = logits(tokens).numpy()
        if family == "deepseek":
            for _ in range(STEPS):
                tokens = torch.cat([tokens, logits(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
        else:
            mask = torch.ones_like(tokens)  # all are text, whatever stands for padding
            tokens = model.generate(tokens, attention_mask=mask, max_new_tokens=STEPS, do_sample=False)
    # Contiguous: safetensors writes the numbers of a view as they lie in memory.
    return {"logits": found, "greedy": np.ascontiguousarray(tokens[:, prompts().shape[1] :].numpy(), np.int32)}


def save(family, model, folder):
    """As the hub has it: by `save_pretrained`, for DeepSeekMoE by the names of its released weights."""
    if family != "deepseek":
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        return
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in model.state_dict().items():
        theirs = name if name.startswith("lm_head") else f"model.{name}"
        head, _, fused = theirs.partition(".experts.")
        if fused == "gate_up_proj":
            for i, expert in enumerate(tensor):
                for part, half in zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True):
                    tensors[f"{head}.experts.{i}.{part}.weight"] = half.contiguous()
        elif fused == "down_proj":
            tensors |= {f"{head}.experts.{i}.down_proj.weight": expert.clone() for i, expert in enumerate(tensor)}
        else:
            tensors[theirs] = tensor
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    left_out = ("class", "mlp_layer_types")
    fields = SIZES | {name: value for name, value in FAMILIES[family].items() if name not in left_out}
    (folder / "config.json").write_text(json.dumps(DEEPSEEK_CONFIG | fields, indent=2, sort_keys=True) + "\n")


def main():
    import torch
    import transformers
    from safetensors.numpy import save_file

    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    for family in FAMILIES:
        folder = RECORDED / family
        for path in sorted(folder.glob("*")):
            path.unlink()
        if folder.exists():
            folder.rmdir()
        model, logits = build(family)
        save(family, model, folder)
        save_file(say(family, model, logits), folder / "said.safetensors", metadata=versions)
        print(family, sum(path.stat().st_size for path in folder.iterdir()), "bytes", versions)


if __name__ == "__main__":
    main()
