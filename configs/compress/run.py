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

Record: 2026-11-22, two CPU cores, jax 0.10.2, float32; experiments/results/compression_{vmoe,minilm}.{json,md,png}.

  python experiments/compress.py --config configs/compress/run.py --checkpoint RUN --workdir sweeps/vmoe --sweep
    RUN: configs/vit/patchwork.py:long,model=vmoe,seed=0 (accuracy 83.9 %); experts alone; calibration seeds 0, 1, 2
  python experiments/compress.py --config configs/compress/run.py:subject=minilm,once=gfwsvd/fwsvd,rounds=7,\
methods=activation_svd/dobi/fwsvd/gfwsvd/lorap/randomised_svd/svd/svd_llm --workdir sweeps/minilm --sweep

  Cosine of the encoder's embeddings with the uncompressed ones at 90, 75, 50 and 25 % of the compressed parameters (standard
  deviation over three calibration seeds at most 0.004):
    svd_llm .929 .887 .788 .610   dobi .930 .871 .675 .561   gfwsvd .829 .763 .586 .372   lorap .900 .690 .487 .265
    fwsvd .810 .698 .490 .252     activation_svd .786 .669 .453 .247     svd .671 .527 .306 .189
  Which of the papers' orderings hold: SVD-LLM before activation-scaled before plain SVD, FWSVD before SVD and GFWSVD before
  FWSVD at every budget. Not held: Dobi-SVD before SVD-LLM (equal at 90 %, below from 75 % on, although its outputs have the least
  error of all at every budget). GFWSVD's outputs err most of all and its embeddings are the third best: error of outputs alone does
  not order methods. 32 examples take 299 ms uncompressed, 342, 279, 211 and 161 ms at the four budgets: slower at 90 %.
  On the V-MoE nothing orders the low-rank methods: at 25 % all lie within 0.4 points of 83.9 % (seeds differ by 0.1). Merging
  experts costs: Sub-MoE 77.8 %, MC-SMoE 81.4 %, channel pruning 82.9 % at 25 %. MoBE rebuilds kernels best at 90 and 75 %
  (error 12 and 20 %, plain SVD 24 and 30 %), as its paper says, and worse than SVD at 50 and 25 %.
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
