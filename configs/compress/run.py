"""Compress a finished run, with or without healing; or compare all methods on it, or on a pretrained encoder.

  python experiments/compress.py --config configs/compress/run.py:method=svd_llm,budget=0.5 --checkpoint runs/vmoe \
      --workdir runs/vmoe_half
  python experiments/compress.py --config configs/compress/run.py --checkpoint runs/vmoe --workdir sweeps/vmoe --sweep
  python experiments/compress.py --config configs/compress/run.py:subject=minilm --workdir sweeps/minilm --sweep

Arguments: subject (run, or minilm: the packaged sentence encoder, which has no checkpoint and is compared only), method (a file of moejax/compress; 'NAME+refit' adds the sequential update), budget (the fraction that stays),
unit=params|flops, only (regex over names of weights; none: the experts, or the feed-forward layers of a model without any),
allocation (uniform|spectrum|fisher|sensitivity|learned; none: the method's own), examples (of the calibration), seed (of
the calibration), heal (steps; 0 for none), kind=distill|finetune, methods (of the sweep, with '/' between them; none: all),
seeds, once (methods that get the first seed only, with '/' between them), rounds (of the latency measurement), smoke (few examples, two methods, two budgets, one seed).

Record: not run yet.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The compression's config; see the module's docstring for the arguments."""
    args = parse(
        arg, subject="run", method="svd_llm", budget=0.5, unit="params", only=None, allocation=None, examples=512, seed=0, heal=0,
        kind="distill", methods=None, seeds=3, once=None, rounds=15, smoke=False,
    )  # fmt: skip
    config = ConfigDict()
    config.subject = args.subject
    config.method = args.method
    config.budget = args.budget
    config.unit = args.unit
    config.only = args.only
    config.allocation = args.allocation
    config.seed = args.seed
    config.examples = args.examples
    config.heal = {"kind": args.kind, "steps": args.heal, "learning_rate": 3e-4}
    config.sweep = {
        "methods": () if args.methods is None else tuple(args.methods.split("/")),
        "budgets": (0.9, 0.75, 0.5, 0.25),
        "seeds": tuple(range(args.seeds)),
        "once": () if args.once is None else tuple(args.once.split("/")),
        "unit": args.unit,
        "allocation": args.allocation,
        "rounds": args.rounds,
    }
    if args.smoke:
        config.examples = 32
        config.sweep.update(methods=("svd", "svd_llm"), budgets=(0.75, 0.5), seeds=(0,), rounds=2)
    return config
