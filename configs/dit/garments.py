"""Dense DiT, DiT-MoE, expert-choice DiT and Soft DiT on 28x28 photographs of garments, in pixels, at equal activated FLOPs.

  python experiments/train.py --config configs/dit/garments.py:model=moe,seed=0 --workdir runs/dit_moe
  python experiments/sample.py --checkpoint runs/dit_moe --output samples/dit_moe --guidance 2

Arguments: model=dense|moe|expert_choice|soft, seed, steps, experts (of expert choice and Soft MoE; twice as many of half the
width for moe), process=rectified_flow|ddpm, smoke (two tiny steps).

Every block of the dense model has an MLP of width 4 D. In DiT-MoE a shared expert of half that width serves every token, and
two routed ones of a quarter each; in the other two a token passes one expert of width 4 D on average (expert choice with
capacity factor 1, Soft MoE with as many slots as tokens). So all compute what the dense model computes, up to the router.

Record: 2026-11-22, two CPU cores, jax 0.10.2, float32.

  make demo-diffusion (experiments/demo_diffusion.py: model=moe, 1,500 steps of 64 pictures at 272 ms; 13.8 minutes in all)
  Test loss 0.277 (by quarters of the time, data first: 0.457, 0.230, 0.198, 0.225). 500 samples by DPM-Solver++ in 20 evaluations
  at guidance 2.5, judged by the classifier of configs/vit/garments.py (84.5 % on all test pictures), beside 500 real pictures:
    class asked for 86.6 ± 1.5 % (real 87.2), Frechet distance 1.83 (0.33), precision 0.968 (0.950), recall 0.818 (0.966),
    density 0.961 (0.937), coverage 0.802 (0.978).
  An earlier run of 1,500 steps on mirrored pictures, same figures at guidance 1, 2 and 3: class 60, 82 and 87 %, Frechet distance
  2.9, 1.7 and 2.0, recall 0.98, 0.91 and 0.81.
  Expert usage (500 noised test pictures, bits beyond chance that the expert shares with place, time and class, mean over four
  layers): 0.89, 0.16, 0.20; before training 0.45, 0.05, 0.01. Of the three published observations: preference of place over class
  holds, of time over class does not (classes differ in outline here); information about place falls with depth (slope -0.33
  bits over the depth); usage is most uneven at both ends of the time, not at the noisy one alone.
  The four models at equal FLOPs, three seeds, 1,000 steps, 1,000 samples without guidance (experiments/compare_dit.py --steps
  1000, 55 minutes; experiments/results/dit_models.*), mean ± standard error over seeds:
    test loss: DiT-MoE 0.2952 ± 0.0014, expert choice 0.2980 ± 0.0007, dense 0.3006 ± 0.0016, Soft DiT 0.3551 ± 0.0016.
    Frechet distance (real pictures 0.34): 2.26 ± 0.09, 2.12 ± 0.12, 2.44 ± 0.09, 3.93 ± 0.28.
    precision (0.967): 0.897, 0.879, 0.873, 0.848; recall (0.957): 0.969, 0.966, 0.971, 0.965.
  So both sparse models are ahead of the dense one at the same arithmetic, by about two standard errors; Soft DiT is well behind,
  with 11 % more arithmetic in its router: a reason was not looked for.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean

MODELS = ("dense", "moe", "expert_choice", "soft")
PROCESSES = ("rectified_flow", "ddpm")
TOKENS = 49  # of one picture: 28x28 pixels, patches of 4
STEPS = 2000


def get_config(arg: str = "") -> ConfigDict:
    """The config of one model; see the module's docstring for the arguments."""
    args = parse(arg, model="moe", seed=0, steps=STEPS, experts=7, process="rectified_flow", smoke=False)
    for name, allowed in (("model", MODELS), ("process", PROCESSES)):
        if getattr(args, name) not in allowed:
            raise SpecError(
                f"config argument {name}={getattr(args, name)!r} is unknown.{did_you_mean(getattr(args, name), allowed)}"
            )
    config = ConfigDict()
    config.name = f"garments_{args.model}"
    config.seed = args.seed
    config.model = model(args)
    config.task = {"name": "diffusion", "process": process(args), "prediction": "flow", "aux_loss_weight": 1.0}
    if args.process == "ddpm":
        config.task.prediction = "velocity"
    config.data = {
        "name": "fashion_mnist_12k",
        "batch_size": 64,
        "eval_batch_size": 250,
        "channels": 1,
        "value_range": "-1_1",
        # No flips: in this set every shoe points to the left, and pictures are to be judged as they are.
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_steps": max(args.steps // 20, 1),
        "b2": 0.99,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "on_nonfinite": "stop",
        "max_skipped": 10,
        "mesh": {"data": -1, "fsdp": 1, "expert": 1, "model": 1},
        "steps": args.steps,
        "accumulate_steps": 1,
        "ema_decay": 0.995,
        "log_every": 50,
        "eval_every": 500,
        "checkpoint_every": 250,
        "keep_last": 1,
        "keep_best": 0,
        "best_metric": "valid/loss",
        "best_mode": "min",
        "test_with": "last",
        "init_from": config_dict.placeholder(str),  # so that the command line can give it
        "reinitialise": (),
    }
    return shrink(config) if args.smoke else config


def process(args: Any) -> dict[str, Any]:
    """How pictures become noise."""
    if args.process == "ddpm":
        return {"name": "ddpm", "schedule": "cosine"}
    return {"name": "rectified_flow", "time": "logit_normal"}


def model(args: Any) -> dict[str, Any]:
    """The model that `args.model` names."""
    fields: dict[str, Any] = {
        "name": "dit",
        "image_size": 28,
        "patch_size": 4,
        "channels": 1,
        "dim": 96,
        "depth": 4,
        "num_heads": 4,
        "mlp_dim": 384,
        "num_classes": 10,
        "label_dropout": 0.1,
    }
    if args.model != "dense":
        fields |= {"moe_layers": "all", "moe": moe(args, fields["mlp_dim"])}
    return fields


def moe(args: ConfigDict, mlp_dim: int) -> dict[str, Any]:
    """The MoE layer whose activated FLOPs are those of a dense layer of `mlp_dim`."""
    if args.model == "moe":
        return {
            "router": {
                "name": "top_k",
                "num_experts": 2 * args.experts,
                "num_selected_experts": 2,
                "noise_std": 0.0,
                "balance_loss_weight": 0.01,
                "balance_groups": "together",
            },
            "experts": {"name": "mlp", "expert_dim": mlp_dim // 4},
            "shared": {"name": "mlp", "expert_dim": mlp_dim // 2},
        }
    routers = {
        "expert_choice": {"name": "expert_choice", "num_experts": args.experts, "capacity_factor": 1.0},
        "soft": {"name": "soft", "num_experts": args.experts, "num_slots": -(-TOKENS // args.experts)},
    }
    return {"router": routers[args.model], "experts": {"name": "mlp", "expert_dim": mlp_dim}}


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model, every part of the way a long run takes."""
    config.model.update(dim=16, depth=2, num_heads=2, mlp_dim=32)
    if "moe" in config.model:
        config.model.moe.experts.expert_dim = 16
    config.data.update(batch_size=8, eval_batch_size=32, max_examples=64)
    config.optimizer.warmup_steps = 1
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
