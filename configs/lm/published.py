"""Published mixtures of experts over text, in their own sizes: to be planned, summarised, and trained where there are chips.

  python experiments/plan.py --config configs/lm/published.py:size=mixtral_8x7b --topology v5p:4x4x8 --mesh fsdp=16,expert=8
  python experiments/summary.py --config configs/lm/published.py:size=olmoe_1b_7b

Arguments: size=mixtral_8x7b|qwen1.5_moe_a2.7b|olmoe_1b_7b|deepseek_moe_16b, batch (sequences), length (tokens of a sequence),
remat=none|full|dots|exchange, smoke (two tiny steps).

Sources of the sizes: the papers (Jiang et al. 2024, "Mixtral of Experts", table 1; Muennighoff et al. 2024, "OLMoE", table 1; Dai
et al. 2024, "DeepSeekMoE", section 5.1) and the config.json of mistralai/Mixtral-8x7B-v0.1, Qwen/Qwen1.5-MoE-A2.7B,
allenai/OLMoE-1B-7B-0924 and deepseek-ai/deepseek-moe-16b-base. Deviations: the text is the byte-level `docstrings`, which uses 257
tokens of the vocabulary (the papers' data and tokenisers are not here); losses of the routers are the papers', optimiser and
schedule are ours; computation in bfloat16 over float32 parameters.

Record: not trained here. Counted from shapes (experiments/summary.py), all parameters and those that a token activates, beside
what the authors say:

  mixtral_8x7b       46.70 B   12.88 B   (47 B, 13 B)
  qwen1.5_moe_a2.7b  14.32 B    2.69 B   (14.3 B, 2.7 B)
  olmoe_1b_7b         6.92 B    1.28 B   (6.9 B, 1.3 B)
  deepseek_moe_16b   16.38 B    2.83 B   (16.4 B, 2.8 B)
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean

DECODERS: dict[str, dict[str, Any]] = {
    "mixtral_8x7b": {
        "vocab_size": 32_000,
        "dim": 4096,
        "depth": 32,
        "num_heads": 32,
        "num_kv_heads": 8,
        "mlp_dim": 14_336,
        "rope_base": 1e6,
        "norm_epsilon": 1e-5,
        "max_length": 32_768,
        "moe_layers": "all",
    },
    "qwen1.5_moe_a2.7b": {
        "vocab_size": 151_936,
        "dim": 2048,
        "depth": 24,
        "num_heads": 16,
        "num_kv_heads": 16,
        "mlp_dim": 5632,
        "rope_base": 1e6,
        "attention_bias": "qkv",
        "norm_epsilon": 1e-6,
        "max_length": 8192,
        "moe_layers": "all",
    },
    "olmoe_1b_7b": {
        "vocab_size": 50_304,
        "dim": 2048,
        "depth": 16,
        "num_heads": 16,
        "num_kv_heads": 16,
        "mlp_dim": 1024,
        "rope_base": 1e4,
        "qk_norm": "width",
        "norm_epsilon": 1e-5,
        "max_length": 4096,
        "moe_layers": "all",
    },
    "deepseek_moe_16b": {
        "vocab_size": 102_400,
        "dim": 2048,
        "depth": 28,
        "num_heads": 16,
        "num_kv_heads": 16,
        "mlp_dim": 10_944,  # of the first layer, which has no experts
        "rope_base": 1e4,
        "norm_epsilon": 1e-6,
        "max_length": 4096,
        "moe_layers": tuple(range(1, 28)),
    },
}
# num_experts, num_selected_experts, expert_dim, width of what is shared by all, and the router's own settings.
MIXTURES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "mixtral_8x7b": (8, 2, 14_336, 0, {"order": "top_k_then_softmax", "balance_loss_weight": 0.02}),
    "qwen1.5_moe_a2.7b": (60, 4, 1408, 5632, {"balance_loss_weight": 0.001}),
    "olmoe_1b_7b": (64, 8, 1024, 0, {"balance_loss_weight": 0.01, "z_loss_weight": 0.001}),
    "deepseek_moe_16b": (64, 6, 1408, 2 * 1408, {"balance_loss_weight": 0.001}),
}


def get_config(arg: str = "") -> ConfigDict:
    """The config; see the module's docstring for the arguments."""
    args = parse(arg, size="olmoe_1b_7b", batch=256, length=4096, remat="full", smoke=False)
    if args.size not in DECODERS:
        raise SpecError(f"config argument size={args.size!r} is unknown.{did_you_mean(args.size, DECODERS)}")
    config = ConfigDict()
    config.name = args.size
    config.seed = 0
    config.model = {"name": "decoder", "dtype": "bfloat16", "remat": args.remat} | DECODERS[args.size]
    config.model.moe = moe(args.size)
    config.task = {"name": "language", "aux_loss_weight": 1.0}
    config.data = {
        "name": "docstrings",
        "batch_size": args.batch,
        "eval_batch_size": args.batch,
        "sequence_length": args.length,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 3e-4,
        "schedule": "cosine",
        "warmup_steps": 2000,
        "b2": 0.95,
        "weight_decay": 0.1,
        "weight_decay_rules": (("kernel$", 1.0),),
        "clip_norm": 1.0,
    }
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "mesh": {"data": 1, "fsdp": -1, "expert": 1, "model": 1},
        "steps": 100_000,
        "log_every": 100,
        "eval_every": 5000,
        "checkpoint_every": 5000,
        "best_metric": "valid/bits_per_byte",
        "best_mode": "min",
        "init_from": config_dict.placeholder(str),  # so that the command line can give it
        "reinitialise": (),
    }
    return shrink(config) if args.smoke else config


def moe(size: str) -> dict[str, Any]:
    """The published mixture, dropless."""
    num_experts, chosen, expert_dim, shared, router = MIXTURES[size]
    found: dict[str, Any] = {
        "router": {
            "name": "top_k",
            "num_experts": num_experts,
            "num_selected_experts": chosen,
            "noise_std": 0.0,
            "capacity_factor": None,
            "balance_groups": "together",
            **router,
        },
        "experts": {"name": "swiglu", "expert_dim": expert_dim},
    }
    if shared:
        found["shared"] = {"name": "swiglu", "expert_dim": shared}
    if size.startswith("qwen"):
        found["shared_gate"] = True
    return found


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model of the same make, on a little text."""
    config.model.update(vocab_size=264, dim=16, depth=2, num_heads=4, mlp_dim=32, max_length=32, dtype="float32")
    config.model.update(num_kv_heads=2 if config.model.num_kv_heads < 16 else 4)
    if isinstance(config.model.moe_layers, tuple):
        config.model.moe_layers = (1,)
    config.model.moe.router.update(num_experts=8, num_selected_experts=2)
    config.model.moe.experts.expert_dim = 8
    if "shared" in config.model.moe:
        config.model.moe.shared.expert_dim = 16
    config.data.update(batch_size=8, eval_batch_size=16, max_examples=64, sequence_length=32)
    config.optimizer.warmup_steps = 1
    config.train.mesh.update(data=-1, fsdp=1)
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
