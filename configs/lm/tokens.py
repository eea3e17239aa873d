r"""A language model on tokens of any tokenizer, read from files: to go on with released weights, or to train from scratch.

  python experiments/train.py --config configs/lm/tokens.py --config.data.folder=tokens --workdir runs/mine
  python experiments/convert.py --from huggingface --input OLMoE-1B-7B --to run --output runs/olmoe \
      --config configs/lm/tokens.py --config.data.folder=tokens
  python experiments/train.py --config configs/lm/tokens.py:source=runs/olmoe --config.data.folder=tokens --workdir runs/further

Arguments: source (workdir of a run of a decoder, whose model and weights are taken; none: a new model), vocab_size, dim, depth, mlp_dim, experts, k (selected ones), length (of sequences), seed, steps, smoke (two tiny steps).

The folder holds train.npy, validation.npy, test.npy and token_bytes.npy, as moejax/data/token_files.py says. Converted weights
bring their own model; the run is evaluated, compressed and trained further as any other.

Record: not run here beyond the smoke variant.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from moejax.core.arguments import model_of_run, parse


def get_config(arg: str = "") -> ConfigDict:
    """The config; see the module's docstring for the arguments."""
    args = parse(
        arg, source=None, vocab_size=50_304, dim=256, depth=4, mlp_dim=1024, experts=16, k=2, length=256, seed=0, steps=5000, smoke=False
    )  # fmt: skip
    config = ConfigDict()
    config.name = "tokens"
    config.seed = args.seed
    config.model = new_model(args) if args.source is None else model_of_run(str(args.source))
    config.task = {"name": "language", "aux_loss_weight": 1.0}
    folder = config_dict.placeholder(str)  # the command line gives it
    sizes = {"batch_size": 16, "eval_batch_size": 16, "sequence_length": args.length}
    config.data = {"name": "token_files", "folder": folder} | sizes
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": max(args.steps // 20, 1),
        "b2": 0.95,
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
        "init_from": None if args.source is None else str(args.source),
        "init_which": "best",
        "reinitialise": (),
    }
    return shrink(config) if args.smoke else config


def new_model(args: ConfigDict) -> dict[str, Any]:
    """A decoder with experts in every block."""
    return {
        "name": "decoder",
        "vocab_size": args.vocab_size,
        "dim": args.dim,
        "depth": args.depth,
        "num_heads": 4,
        "mlp_dim": args.mlp_dim,
        "max_length": args.length,
        "tie_embeddings": True,
        "moe_layers": "all",
        "moe": {
            "router": {
                "name": "top_k",
                "num_experts": args.experts,
                "num_selected_experts": args.k,
                "noise_std": 0.0,
                "order": "top_k_then_softmax",
                "capacity_factor": None,
                "balance_loss_weight": 0.01,
                "z_loss_weight": 0.001,
            },
            "experts": {"name": "swiglu", "expert_dim": args.mlp_dim // args.k},
        },
    }


def shrink(config: ConfigDict) -> ConfigDict:
    """The smoke variant: two steps on few tokens; of a tiny model where it is a new one."""
    if config.train.init_from is None:
        config.model.update(dim=16, depth=1, mlp_dim=32, max_length=32)
        config.model.moe.router.update(num_experts=4)
        config.model.moe.experts.expert_dim = 16
    config.data.update(batch_size=8, eval_batch_size=16, max_examples=64, sequence_length=32)
    config.optimizer.warmup_steps = 1
    config.train.update(steps=2, log_every=1, eval_every=1, checkpoint_every=1)
    return config
