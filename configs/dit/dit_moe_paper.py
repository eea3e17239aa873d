r"""DiT-MoE and its dense DiT at every published size, on ImageNet latents, and their variants.

  python experiments/summary.py --config configs/dit/dit_moe_paper.py:size=S/2,experts=8
  python experiments/summary.py --config configs/dit/dit_moe_paper.py:size=XL/2,experts=0
  python experiments/cache_latents.py --weights vae.safetensors --data.name=imagenet2012 --data.image_size=256 --mirrored \
      --folder latents/imagenet256
  python experiments/train.py --config configs/dit/dit_moe_paper.py:size=S/2,experts=8 --workdir runs/dit_moe_s \
      --config.data.folder=latents/imagenet256

On several devices --config.train.mesh.expert=8 spreads the experts over eight of them.

Arguments: size=S|B|L|XL|G/PATCH (patch 2, 4 or 8), experts (0: the dense DiT), k (chosen per token), shared (the width of
the shared expert in units of D; 0: none), image_size (256 or 512; latents are an eighth of it), num_classes,
process=auto|ddpm|rectified_flow (auto: ddpm for S, B and L, rectified_flow for XL and G, as published), router=top_k|
expert_choice|soft (the others serve k rows per token too), intervals (above 1: the experts are divided among that many
intervals of the time, equally long in steps), bank=swiglu|low_rank, rank (of low_rank), remat=none|full|dots|exchange (what
the backward pass computes again), smoke.

Source: Fei et al. 2024, "Scaling Diffusion Transformers to 16 Billion Parameters", section 3 and table 1; Peebles & Xie
2023, "Scalable Diffusion Models with Transformers", section 4 (batch 256, AdamW at 1e-4, average 0.9999, flips).
Deviations: batch and steps are those of DiT's comparisons (400,000), for all sizes; models of rectified flow have no
second picture of outputs. The released code adds the balance losses of all layers, here their mean times their number.

Record: not run here.
"""

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean
from moejax.models import sizes

CHOICES = {
    "router": ("top_k", "expert_choice", "soft"),
    "bank": ("swiglu", "low_rank"),
    "process": ("auto", "ddpm", "rectified_flow"),
}
TIME_STEPS = 1000
SMOKE = {"image_size": 32, "channels": 3, "patch_size": 8, "dim": 16, "depth": 3, "num_heads": 2, "mlp_dim": 64}


def get_config(arg: str = "") -> ConfigDict:
    """The training config; see the module's docstring for the arguments."""
    args = parse(
        arg,
        size="S/2",
        experts=8,
        k=2,
        shared=2,
        image_size=256,
        num_classes=1000,
        process="auto",
        router="top_k",
        intervals=1,
        bank="swiglu",
        rank=64,
        remat="none",
        smoke=False,
    )
    for name, allowed in CHOICES.items():
        if getattr(args, name) not in allowed:
            raise SpecError(
                f"config argument {name}={getattr(args, name)!r} is unknown.{did_you_mean(getattr(args, name), allowed)}"
            )
    if args.intervals > 1 and args.router != "top_k":
        raise SpecError(f"config argument intervals={args.intervals} goes with router=top_k, not {args.router}.")
    size = args.size.partition("/")[0]
    fields = {"name": "dit", "channels": 4, **sizes.fields(sizes.DIT_MOE, args.size, image_size=args.image_size // 8)}
    if args.smoke:
        fields |= SMOKE
        args.num_classes, args.rank = 29, 4
    flow = args.process == "rectified_flow" or (args.process == "auto" and size in sizes.DIT_MOE_QK_NORM)
    fields |= {
        "num_classes": args.num_classes,
        "label_dropout": 0.1,
        "learn_variance": not flow,
        "qk_norm": args.experts > 0 and size in sizes.DIT_MOE_QK_NORM,
        "dtype": "bfloat16",
        "remat": args.remat,
    }
    if args.experts:
        fields |= {"moe_layers": "all", "moe": moe(args, fields)}
    config = ConfigDict()
    config.name = (
        f"dit_{args.size.replace('/', '')}_{args.router}{args.experts}" if args.experts else f"dit_{args.size}"
    )
    config.seed = 0
    config.model = fields
    config.task = {
        "name": "diffusion",
        "process": {"name": "rectified_flow"} if flow else {"name": "ddpm", "schedule": "linear"},
        "prediction": "flow" if flow else "noise",
        "loss_type": "simple" if flow else "hybrid",
        "aux_loss_weight": float(fields["depth"]),
    }
    folder = config_dict.placeholder(str)  # of the cache; the command line gives it
    config.data = {"name": "latents", "folder": folder, "batch_size": 256, "eval_batch_size": 256}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-4, "schedule": "constant", "weight_decay": 0.0}
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "on_nonfinite": "stop",
        "max_skipped": 10,
        "mesh": {"data": -1, "fsdp": 1, "expert": 1, "model": 1},
        "steps": 400_000,
        "ema_decay": 0.9999,
        "log_every": 100,
        "eval_every": 10_000,
        "checkpoint_every": 10_000,
        "best_metric": "valid/loss",
        "best_mode": "min",
    }
    return shrink(config) if args.smoke else config


def moe(args: ConfigDict, fields: dict) -> dict:
    """The published MoE layer, or a variant of it that computes as many expert rows."""
    dim, tokens = fields["dim"], (fields["image_size"] // fields["patch_size"]) ** 2
    top_k = {
        "name": "top_k",
        "num_experts": args.experts,
        "num_selected_experts": args.k,
        "noise_std": 0.0,
        "balance_loss_weight": 0.01,
        "balance_groups": "together",
        "gate": {"name": "linear", "kernel_init": "kaiming_uniform"},
    }
    if args.intervals > 1:
        for field in ("noise_std", "balance_groups"):  # it has no noise and always balances over the batch
            top_k.pop(field)
        steps = tuple(i * TIME_STEPS // args.intervals for i in range(1, args.intervals))
        top_k |= {"name": "time_groups", "boundaries": steps}
    routers = {
        "top_k": top_k,
        "expert_choice": {"name": "expert_choice", "num_experts": args.experts, "capacity_factor": float(args.k)},
        "soft": {"name": "soft", "num_experts": args.experts, "num_slots": max(args.k * tokens // args.experts, 1)},
    }
    swiglu = {"name": "swiglu", "expert_dim": fields["mlp_dim"], "kernel_init": "xavier_uniform"}
    low_rank = {"name": "low_rank", "expert_dim": fields["mlp_dim"], "rank": args.rank, "gated": True}
    layer = {"router": routers[args.router], "experts": low_rank if args.bank == "low_rank" else swiglu}
    return layer | ({"shared": swiglu | {"expert_dim": args.shared * dim}} if args.shared else {})


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model of the same make, on pictures that are at hand."""
    config.data = {
        "name": "patchwork",
        "batch_size": 8,
        "eval_batch_size": 32,
        "max_examples": 64,
        "value_range": "-1_1",
    }
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
