"""Soft MoE, its expert-choice baseline and its dense ViT at every published size, pre-trained on JFT-4B.

  python experiments/summary.py --config configs/vit/soft_moe_paper.py:size=S/16,experts=128,num_classes=29593
  python experiments/summary.py --config configs/vit/soft_moe_paper.py:size=S/16,router=none

Arguments: size=Ti|S|B|L|H/PATCH (S: 12 layers of 384), router=soft|expert_choice|none, experts (0: the published number,
256 for patches of 14, else 128), num_classes, image_size, remat=none|full|dots|exchange (what the backward pass computes
again), smoke.

MoE layers are the second half of the blocks (last 6, 12 for L, 16 for H); one slot per expert; a picture is a group.
Source: Puigcerver et al. 2024, "From Sparse to Soft Mixtures of Experts", section 3 and appendix.
JFT-4B is not public: name another data set (--config.data.name=imagenet2012 --config.model.num_classes=1000).

Record: not run here.
"""

import math

from ml_collections import ConfigDict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean
from moejax.models import sizes

ROUTERS = ("soft", "expert_choice", "none")
SMOKE = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 4, "num_heads": 2, "mlp_dim": 32, "num_classes": 29}


def get_config(arg: str = "") -> ConfigDict:
    """The pre-training config; see the module's docstring for the arguments."""
    args = parse(
        arg, size="S/16", router="soft", experts=0, num_classes=29_593, image_size=224, remat="none", smoke=False
    )
    if args.router not in ROUTERS:
        raise SpecError(f"config argument router={args.router!r} is unknown.{did_you_mean(args.router, ROUTERS)}")
    name = args.size.partition("/")[0]
    fields = {"name": "vit", **sizes.fields(sizes.SOFT_MOE, args.size, image_size=args.image_size)}
    experts = args.experts or (256 if fields["patch_size"] == 14 else 128)
    fields["num_classes"] = args.num_classes
    if args.smoke:
        fields |= SMOKE
        experts = min(experts, 4)
    fields |= {
        "pooling": "avg",
        "qk_norm": True,
        "head_bias": -math.log(fields["num_classes"]),
        "dtype": "bfloat16",
        "remat": args.remat,
    }
    if args.router != "none":
        fields["moe_layers"] = "final2" if args.smoke else sizes.SOFT_MOE_LAYERS[name]
        fields["moe"] = moe(args.router, experts=experts, mlp_dim=fields["mlp_dim"])
    config = ConfigDict()
    config.name = f"soft_moe_{args.size.replace('/', '')}_{args.router}"
    config.seed = 0
    config.model = fields
    config.task = {"name": "classification", "cross_entropy": "sigmoid", "label_smoothing": 0.0, "aux_loss_weight": 1.0}
    config.data = {
        "name": "jft_4b",
        "batch_size": 4096,
        "eval_batch_size": 4096,
        "image_size": fields["image_size"],
        "value_range": "-1_1",
        "augment": {"random_resized_crop": {"min_area": 0.05}, "flip": {}},
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "schedule": "rsqrt",
        "timescale": 10_000,
        "warmup_steps": 10_000,
        "cooldown_steps": 50_000,
        "weight_decay": 0.03,
        "weight_decay_rules": (("^head/kernel$", 100.0), ("kernel$|router/scale$", 1.0)),  # the head's decay is 3
        "clip_norm": 1.0,
    }
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "on_nonfinite": "stop",
        "max_skipped": 10,
        "mesh": {"data": -1, "fsdp": 1, "expert": 1, "model": 1},
        "steps": 2_000_000 if name == "H" else 4_000_000,
        "log_every": 100,
        "eval_every": 10_000,
        "checkpoint_every": 10_000,
    }
    return shrink(config) if args.smoke else config


def moe(router: str, *, experts: int, mlp_dim: int) -> dict:
    """The published MoE layer, or its baseline at capacity factor 1."""
    routers = {
        "soft": {"name": "soft", "num_experts": experts, "num_slots": 1},
        "expert_choice": {"name": "expert_choice", "num_experts": experts, "capacity_factor": 1.0},
    }
    return {"router": routers[router], "experts": {"name": "mlp", "expert_dim": mlp_dim, "equal_init": True}}


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model of the same make, on pictures that are at hand."""
    config.data.name = "patchwork"
    config.data.update(batch_size=8, eval_batch_size=32, max_examples=64)
    config.optimizer.update(warmup_steps=1, cooldown_steps=0)
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
