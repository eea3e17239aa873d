"""Published mixtures of experts over text, in their own sizes: to be planned, summarised, and trained where there are chips.

  python experiments/plan.py --config configs/lm/published.py:size=Mixtral-8x7B --topology v5p:4x4x8 --mesh fsdp=16,expert=8
  python experiments/summary.py --config configs/lm/published.py:size=OLMoE-1B-7B

Arguments: size=Mixtral-8x7B|Qwen1.5-MoE-A2.7B|OLMoE-1B-7B|DeepSeekMoE-16B, batch (sequences), length (tokens of a sequence),
remat=none|full|dots|exchange, smoke (two tiny steps).

Sources of the sizes: moejax/models/sizes.py; of the weights of the routers' losses, the config.json beside the released weights
(OLMoE's z-loss: its paper). Deviations: the text is the byte-level `docstrings`, which uses 257 tokens of the vocabulary (the
papers' data and tokenisers are not here); optimiser and schedule are ours; computation in bfloat16 over float32 parameters.

Record: not trained here. Counted from shapes (experiments/summary.py), all parameters and those that a token activates, beside
what the authors say:

  Mixtral-8x7B       46.70 B   12.88 B   (47 B, 13 B)
  Qwen1.5-MoE-A2.7B  14.32 B    2.69 B   (14.3 B, 2.7 B)
  OLMoE-1B-7B         6.92 B    1.28 B   (6.9 B, 1.3 B)
  DeepSeekMoE-16B    16.38 B    2.83 B   (16.4 B, 2.8 B)
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean
from moejax.models.sizes import LANGUAGE

ROUTERS: dict[str, dict[str, Any]] = {
    "Mixtral-8x7B": {"balance_loss_weight": 0.02},
    "Qwen1.5-MoE-A2.7B": {"balance_loss_weight": 0.001},
    "OLMoE-1B-7B": {"balance_loss_weight": 0.01, "z_loss_weight": 0.001},
    "DeepSeekMoE-16B": {"balance_loss_weight": 0.001},
}


def get_config(arg: str = "") -> ConfigDict:
    """The config; see the module's docstring for the arguments."""
    args = parse(arg, size="OLMoE-1B-7B", batch=256, length=4096, remat="full", smoke=False)
    if args.size not in LANGUAGE:
        raise SpecError(f"config argument size={args.size!r} is unknown.{did_you_mean(args.size, LANGUAGE)}")
    config = ConfigDict()
    config.name = args.size
    config.seed = 0
    config.model = {"name": "decoder", "dtype": "bfloat16", "remat": args.remat} | LANGUAGE[args.size].fields
    config.model.moe.router.update(capacity_factor=None, balance_groups="together", **ROUTERS[args.size])
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


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model of the same make, on a little text."""
    config.model.update(vocab_size=264, dim=16, depth=2, num_heads=4, mlp_dim=32, max_length=32, dtype="float32")
    config.model.update(num_kv_heads=2 if config.model.num_kv_heads < 16 else 4)
    config.model.moe_layers = tuple(layer for layer in (0, 1) if layer in config.model.moe_layers)
    config.model.moe.router.update(num_experts=8, num_selected_experts=2)
    config.model.moe.experts.expert_dim = 8
    if "shared" in config.model.moe:
        config.model.moe.shared.expert_dim = 16
    config.data.update(batch_size=8, eval_batch_size=16, max_examples=64, sequence_length=32)
    config.optimizer.warmup_steps = 1
    config.train.mesh.update(data=-1, fsdp=1)
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
