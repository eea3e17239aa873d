"""Factorised expert banks in the demo's ViT on patchwork, each as large as the dense bank in parameters or in activated FLOPs.

  python experiments/train.py --config configs/vit/factorised.py:bank=latent,match=flops,seed=0 --workdir runs/latent

Arguments: bank=dense|low_rank|heterogeneous|latent|basis|cp|tensor_ring|mpo|residual|modulated|product_keys|fine_grained,
match=params|flops (what the bank has in common with the dense one, within 2 %, the router left out), seed, steps, smoke
(two tiny steps).

Model, data and recipe are those of configs/vit/patchwork.py:model=vmoe: the last two of four blocks have a top-2 router
over 16 experts; dense experts have hidden width 96. `product_keys` is one memory of 38^2 experts of one unit that every
token searches (PEER): it routes by itself, and that counts. `fine_grained` splits each expert in two and shares one of the parts: 31 experts
of width 48, of which a token meets 3. The factors of all banks decay like kernels; biases and modulations do not.
dense, low_rank, heterogeneous, product_keys and fine_grained have both the parameters and the FLOPs of the dense bank, and
are one run for both. cp, tensor_ring, mpo and modulated reach its parameters only with 12 to 16 times its FLOPs, and its
FLOPs with 3 to 8 % of its parameters: what they save grows with the number of experts, which stays 16 here.

Record: 2026-11-22, two CPU cores, one core a run, jax 0.10.2; experiments/results/factorised_banks.{json,md,png}.

  python experiments/compare_banks.py --workdir runs/banks --steps 500 --results experiments/results/factorised_banks

  500 steps of 64 pictures, seeds 0, 1 and 2; test accuracy in percent, mean and standard error. The dense bank: 68.4 ± 0.6.
  At its parameters: latent 68.1 ± 0.5, fine_grained 67.5 ± 0.6, product_keys 67.4 ± 0.9, low_rank 67.3 ± 0.4, basis 67.1 ± 0.9,
    heterogeneous 67.1 ± 0.8, residual 66.7 ± 0.3, cp 66.3 ± 0.9, modulated 66.2 ± 0.7, mpo 65.8 ± 0.4, tensor_ring 65.7 ± 0.6.
  At its activated FLOPs: modulated 69.2 ± 0.4 (a third of the parameters), mpo 69.2 ± 0.6, tensor_ring 68.0 ± 0.6,
    residual 67.9 ± 0.1, cp 67.9 ± 0.3, basis 67.3 ± 0.2, latent 67.1 ± 0.4.
  Short runs: most banks lie within two standard errors of the dense one, and small banks learn as fast as large ones; the
  tensor-factorised ones at equal parameters compute three to four times the FLOPs and are behind.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean
from moejax.models.sizes import fine_grained

NUM_EXPERTS, NUM_SELECTED_EXPERTS, EXPERT_DIM = 16, 2, 96
STEPS = 2000
TOKENS = 16  # of one picture
# The dense bank: 297,984 parameters and 73,728 FLOPs per token, of two experts; a test holds the sizes to them.
LOW_RANK = {"name": "low_rank", "expert_dim": 192, "rank": 32}
BANKS: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {"both": {"name": "mlp", "expert_dim": EXPERT_DIM}},
    "low_rank": {"both": LOW_RANK},
    "heterogeneous": {"both": LOW_RANK | {"rank": (16, 16, 32, 64)}},
    "latent": {
        "params": {"name": "latent", "expert_dim": 186, "rank": 48},
        "flops": {"name": "latent", "expert_dim": 144, "rank": 48},
    },
    "basis": {
        "params": {"name": "basis", "expert_dim": 106, "num_bases": 4, "rank": 64},
        "flops": {"name": "basis", "expert_dim": 76, "num_bases": 4, "rank": 64},
    },
    "cp": {
        "params": {"name": "multilinear", "form": "cp", "expert_dim": 192, "rank": 483},
        "flops": {"name": "multilinear", "form": "cp", "expert_dim": 192, "rank": 32},
    },
    "tensor_ring": {
        "params": {"name": "multilinear", "form": "tensor_ring", "expert_dim": 96, "rank": (27, 27, 26)},
        "flops": {"name": "multilinear", "form": "tensor_ring", "expert_dim": 90, "rank": (6, 6, 8)},
    },
    "mpo": {
        "params": {"name": "mpo", "expert_dim": 128, "num_tensors": 2, "bond_dim": 47, "central_mask_rate": 0.25},
        "flops": {"name": "mpo", "expert_dim": 88, "num_tensors": 3, "bond_dim": 3, "central_mask_rate": 0.25},
    },
    "residual": {
        "params": {"name": "residual", "expert_dim": 96, "rank": 45},
        "flops": {"name": "residual", "expert_dim": 64, "rank": 19},
    },
    "modulated": {
        "params": {"name": "modulated", "expert_dim": 1528},
        "flops": {"name": "modulated", "expert_dim": 96},
    },
    "product_keys": {
        "both": {"name": "product_keys", "num_keys": 38, "num_heads": 4, "num_selected_experts": 15, "query_dim": 48}
    },
    "fine_grained": {"both": {"name": "mlp", "expert_dim": 48}},
}
MATCHES = ("params", "flops")
# Kernels, and the factors in their place, by the end of their names.
DECAYED = r"(?<!bias/)(kernel|core|/u|/v|/own|/basis|/input|/output|/central|/auxiliary/\d+)$"


def get_config(arg: str = "") -> ConfigDict:
    """The config of one bank; see the module's docstring for the arguments."""
    args = parse(arg, bank="dense", match="params", seed=0, steps=STEPS, smoke=False)
    for name, value, known in (("bank", args.bank, BANKS), ("match", args.match, MATCHES)):
        if value not in known:
            raise SpecError(f"config argument {name}={value!r} is unknown.{did_you_mean(value, known)}")
    config = ConfigDict()
    config.name = f"factorised_{args.bank}" + ("" if "both" in BANKS[args.bank] else f"_{args.match}")
    config.seed = args.seed
    config.model = {
        "name": "vit",
        "image_size": 32,
        "patch_size": 8,
        "dim": 96,
        "depth": 4,
        "num_heads": 4,
        "mlp_dim": 192,
        "num_classes": 29,
        "stem": "two_stage",
        "pooling": "avg",
        "moe_layers": "final2",
        "moe": moe(args.bank, args.match),
    }
    config.task = {"name": "classification", "cross_entropy": "softmax", "label_smoothing": 0.1, "aux_loss_weight": 1.0}
    config.data = {
        "name": "patchwork",
        "batch_size": 64,
        "eval_batch_size": 256,
        "augment": {
            "flip": {"domains": ("garments", "pictograms")},
            "affine": {"rotate": 6.0, "scale": 0.1, "translate": 0.06},
            "colour_jitter": {"brightness": 0.1, "contrast": 0.2},
        },
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_steps": max(args.steps // 20, 1),
        "b2": 0.99,
        "weight_decay": 0.05,
        "weight_decay_rules": ((DECAYED, 1.0),),
        "clip_norm": 1.0,
    }
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "on_nonfinite": "stop",
        "max_skipped": 10,
        "mesh": {"data": -1, "fsdp": 1, "expert": 1, "model": 1},
        "steps": args.steps,
        "accumulate_steps": 1,
        "ema_decay": 0.998,
        "log_every": 50,
        "eval_every": max(args.steps // 8, 1),
        "checkpoint_every": max(args.steps // 4, 1),
        "keep_last": 1,
        "keep_best": 0,
        "test_with": "last",
        "init_from": config_dict.placeholder(str),  # so that the command line can give it
        "reinitialise": (),
    }
    return shrink(config) if args.smoke else config


def moe(bank: str, match: str) -> dict[str, Any]:
    """The MoE layer of a bank."""
    sizes = BANKS[bank]
    experts = sizes["both"] if "both" in sizes else sizes[match]
    split = {"split": 2, "num_shared": 1} if bank == "fine_grained" else {}
    fitted = fine_grained(NUM_EXPERTS, NUM_SELECTED_EXPERTS, EXPERT_DIM, **split)
    router = fitted["router"] | {
        "name": "top_k",
        "capacity_factor": 1.05,
        "importance_loss_weight": 0.005,
        "load_loss_weight": 0.005,
        "batch_priority": True,
    }
    if bank == "product_keys":
        router = {"name": "uniform", "num_experts": 1}
    shared = {"name": "mlp"} | fitted["shared"] if "shared" in fitted else None
    return {"router": router, "experts": experts, "shared": shared, "group_size": 64 * TOKENS}


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model; sizes are no longer matched."""
    config.model.update(dim=16, depth=2, num_heads=2, mlp_dim=32, moe_layers="final1")
    config.model.moe.group_size = 4 * TOKENS
    config.data.update(batch_size=8, eval_batch_size=32, max_examples=64)
    config.optimizer.warmup_steps = 1
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
