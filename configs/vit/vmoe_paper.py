r"""V-MoE and its dense ViT at every published size, pre-trained on JFT-300M.

  python experiments/summary.py --config configs/vit/vmoe_paper.py:size=B/16,moe=every2,experts=32,num_classes=18291
  python experiments/train.py --config configs/vit/vmoe_paper.py:size=S/32,moe=last2 --config.data.name=imagenet2012 \
      --config.model.num_classes=1000 --workdir runs/vmoe_s32

Arguments: size=S|B|L|H|15B/PATCH (S: 8 layers of 512), moe=lastN|everyN|none (lastN: of the odd layers), experts, k,
num_classes, image_size, pre_logits (the tanh layer before the head; off in the model released for ImageNet-21k), capacity
(the factor of the experts' buffers), remat=none|full|dots|exchange (what the backward pass computes again), smoke.

Source: Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts", section 3 and appendix B.
JFT-300M is not public: name another data set. The number of epochs (5, 7, 14 by size) is the paper's for JFT.
Deviations: the published models dispatch by einsum, here by gather (dispatch='auto'), which computes the same; the
released code counts Adam's decay apart from the gradient, as AdamW here does.

Record: not run here.
"""

import math

from ml_collections import ConfigDict

from moejax.core.arguments import parse
from moejax.models import sizes

JFT_PICTURES = 305_000_000
EPOCHS = {"S": 5, "B": 7, "L": 14, "H": 14, "15B": 14}
PEAK = {"S": 1e-3, "B": 8e-4, "L": 6e-4, "H": 3e-4, "15B": 3e-4}  # L/16 has 4e-4; 15B's is not published
SMOKE = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 4, "num_heads": 2, "mlp_dim": 32, "num_classes": 29}


def get_config(arg: str = "") -> ConfigDict:
    """The pre-training config; see the module's docstring for the arguments."""
    args = parse(
        arg,
        size="B/16",
        moe="every2",
        experts=32,
        k=2,
        num_classes=18_291,
        image_size=224,
        pre_logits=True,
        capacity=1.05,
        remat="none",
        smoke=False,
    )
    name = args.size.partition("/")[0]
    fields = {"name": "vit", **sizes.fields(sizes.VMOE, args.size, image_size=args.image_size)}
    fields["num_classes"] = args.num_classes
    if args.smoke:
        fields |= SMOKE
        args.experts = min(args.experts, 4)
    tokens = (fields["image_size"] // fields["patch_size"]) ** 2 + 1
    fields |= {
        "pooling": "cls",
        "representation_size": fields["dim"] if args.pre_logits else None,
        "head_bias": -math.log(fields["num_classes"]),
        "dtype": "bfloat16",
        "remat": args.remat,
    }
    if args.moe != "none":
        moe_layers = "every2" if args.smoke else args.moe
        fields |= {"moe_layers": moe_layers, "moe": moe(args, mlp_dim=fields["mlp_dim"], group_size=8 * tokens)}
    peak = 4e-4 if args.size == "L/16" else PEAK[name]
    config = ConfigDict()
    config.name = f"vmoe_{args.size.replace('/', '')}_{args.moe}"
    config.seed = 0
    config.model = fields
    config.task = {"name": "classification", "cross_entropy": "sigmoid", "label_smoothing": 0.0, "aux_loss_weight": 1.0}
    config.data = {
        "name": "jft_300m",
        "batch_size": 4096,
        "eval_batch_size": 4096,
        "image_size": fields["image_size"],
        "value_range": "-1_1",
        "augment": {"random_resized_crop": {"min_area": 0.05}, "flip": {}},
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": peak,
        "schedule": "linear",
        "warmup_steps": 10_000,
        "end_fraction": 1e-5 / peak,
        "weight_decay": 0.1,
        "weight_decay_rules": (("kernel$", 1.0),),
        "clip_norm": 1.0,
    }
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "on_nonfinite": "stop",
        "max_skipped": 10,
        "mesh": {"data": -1, "fsdp": 1, "expert": 1, "model": 1},
        "steps": EPOCHS[name] * JFT_PICTURES // 4096,
        "log_every": 100,
        "eval_every": 5_000,
        "checkpoint_every": 5_000,
    }
    return shrink(config) if args.smoke else config


def moe(args: ConfigDict, *, mlp_dim: int, group_size: int) -> dict:
    """The published MoE layer: top-k of the softmax, both losses, all experts started alike, groups of 8 pictures."""
    router = {
        "name": "top_k",
        "num_experts": args.experts,
        "num_selected_experts": args.k,
        "noise_std": 1.0,
        "capacity_factor": args.capacity,
        "capacity_multiple": 4,
        "importance_loss_weight": 0.005,
        "load_loss_weight": 0.005,
    }
    experts = {"name": "mlp", "expert_dim": mlp_dim, "equal_init": True}
    return {"router": router, "experts": experts, "group_size": group_size}


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model of the same make, on pictures that are at hand."""
    config.data.name = "patchwork"
    config.data.update(batch_size=8, eval_batch_size=32, max_examples=64)
    config.optimizer.warmup_steps = 1
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
