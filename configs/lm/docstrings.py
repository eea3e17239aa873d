"""Byte-level language models on the docstrings of Python's standard library: dense, and three mixtures at equal activated FLOPs.

  python experiments/train.py --config configs/lm/docstrings.py:model=top_k,seed=0 --workdir runs/top_k

Arguments: model=dense|top_k|fine_grained|hash, seed, steps, experts (of width mlp_dim), smoke (two tiny steps).

All models have the same blocks but for their feed-forward layers (SwiGLU of hidden width F = mlp_dim): a token passes 2 of
2 * experts experts of width F / 2 (top_k), 3 of 4 * experts - 1 of width F / 4 and one shared by all (fine_grained), or the
one of `experts` experts of width F that a fixed table gives its byte (hash). All compute what the dense model computes, up to the
router, and all mixtures have as many expert parameters. All are dropless, so that no token is displaced by a later one.

The text is that of the Python that runs, about 1.5 MB; a few per cent of it differ from one version to the next, and
results are comparable at one fingerprint only (evaluation.json has it). Modules are divided among the splits as wholes.

Record: 2026-11-30, one of two CPU cores beside much other work, jax 0.10.2, Python 3.11.7 (fingerprint d41e555961eaad6d: 1,157,031,
179,704 and 188,683 bytes of 419, 52 and 52 modules).

  python experiments/train.py --config configs/lm/docstrings.py:model=MODEL,seed=0,steps=400 --workdir runs/MODEL

  400 steps of 2,048 bytes, seed 0 alone. Test split, with the parameters of the last step:

  model   bits per byte   next byte right   parameters   activated   CPU seconds in all
  dense   2.805           46.6 %            431,712      431,712     84
  top_k   2.616           50.0 %            2,502,240    437,856     152

  One short run of each, less than one pass over the text: it shows that both learn and that the mixture, with six times the
  parameters at the same arithmetic, is ahead at equal steps; nothing about seeds or about longer training. No expert was without
  tokens (loads of 1.4 to 13.6 %, even would be 6.3). Of fine_grained only the smoke variant
  was trained, of hash nothing yet.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import parse
from moejax.core.errors import SpecError, did_you_mean
from moejax.models.sizes import fine_grained

MODELS = ("dense", "top_k", "fine_grained", "hash")
VOCAB_SIZE = 264  # 256 bytes and one token more, rounded up to a multiple of 8 that meshes divide


def get_config(arg: str = "") -> ConfigDict:
    """The config; see the module's docstring for the arguments."""
    args = parse(arg, model="dense", seed=0, steps=2000, experts=8, smoke=False)
    if args.model not in MODELS:
        raise SpecError(f"config argument model={args.model!r} is unknown.{did_you_mean(args.model, MODELS)}")
    config = ConfigDict()
    config.name = f"docstrings_{args.model}"
    config.seed = args.seed
    config.model = model(args, dim=16, depth=2, mlp_dim=32) if args.smoke else model(args)
    config.task = {"name": "language", "aux_loss_weight": 1.0}
    folder = config_dict.placeholder(str)  # of Python files; None: the standard library
    sizes = {"batch_size": 16, "eval_batch_size": 32, "sequence_length": 128}
    config.data = {"name": "docstrings", "folder": folder} | sizes
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup_steps": max(args.steps // 20, 1),
        "b2": 0.98,
        "weight_decay": 0.1,
        "weight_decay_rules": (("kernel$", 1.0),),
        "clip_norm": 1.0,
    }
    config.train = {
        "processes": {"start": "auto", "heartbeat": 60, "patience": 300},
        "mesh": {"data": -1, "fsdp": 1, "expert": 1, "model": 1},
        "steps": args.steps,
        "accumulate_steps": 1,
        "log_every": 50,
        "eval_every": 500,
        "checkpoint_every": 500,
        "keep_last": 1,
        "keep_best": 1,
        "best_metric": "valid/bits_per_byte",
        "best_mode": "min",
        "test_with": "last",
        "init_from": config_dict.placeholder(str),  # so that the command line can give it
        "reinitialise": (),
    }
    return shrink(config) if args.smoke else config


def model(args: ConfigDict, dim: int = 96, depth: int = 4, mlp_dim: int = 256) -> dict[str, Any]:
    """The model that `args.model` names."""
    fields: dict[str, Any] = {
        "name": "decoder",
        "vocab_size": VOCAB_SIZE,
        "dim": dim,
        "depth": depth,
        "num_heads": 4,
        "num_kv_heads": 2,
        "mlp_dim": mlp_dim,
        "max_length": 128,
        "tie_embeddings": True,
    }
    if args.model == "dense":
        return fields
    return fields | {"moe_layers": "all", "moe": moe(args, mlp_dim)}


def moe(args: ConfigDict, mlp_dim: int) -> dict[str, Any]:
    """The mixture in the place of a feed-forward layer of width `mlp_dim`."""
    top_k = {
        "name": "top_k",
        "noise_std": 0.0,
        "order": "top_k_then_softmax",
        "capacity_factor": None,
        "balance_loss_weight": 0.01,
        "z_loss_weight": 0.001,
    }
    if args.model == "hash":
        router: dict[str, Any] = {"name": "hash", "num_experts": args.experts, "table_size": VOCAB_SIZE}
        return {"router": router | {"capacity_factor": None}, "experts": {"name": "swiglu", "expert_dim": mlp_dim}}
    split, shared = {"top_k": (2, 0), "fine_grained": (4, 1)}[args.model]
    sizes = fine_grained(args.experts, 1, mlp_dim, split=split, num_shared=shared)
    found = {"router": top_k | sizes["router"], "experts": {"name": "swiglu"} | sizes["experts"]}
    if "shared" in sizes:
        found["shared"] = {"name": "swiglu"} | sizes["shared"]
    return found


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps of a tiny model on a little text."""
    config.data.update(batch_size=8, eval_batch_size=16, max_examples=64, sequence_length=32)
    config.optimizer.warmup_steps = 1
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
