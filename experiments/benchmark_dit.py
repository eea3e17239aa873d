"""Times the forward pass of a DiT-MoE, compiled, against the same model in PyTorch with the same weights, in turn.

  python experiments/benchmark_dit.py --output dit.json
  python experiments/benchmark_dit.py --config configs/dit/dit_moe_paper.py:size=S/2,experts=8 --batch 8 --rounds 11

Needs PyTorch: pip install 'moejax[torch]'. Both run in float32 on the CPU with as many threads as there are cores; the
outputs must agree before a clock starts. Prints medians, their ratio (below 1: ours is faster) and the bound: FLOPs of the
activated model over the rate of a large matrix product in the faster of the two libraries. Exit codes: 0 done, 2 a wrong option.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

# Threads of one library that spin while the other works would be timed with it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flag_errors
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.evals.summary import summarise
from moejax.evals.timing import environment, interleaved, medians, ratios
from moejax.interop.dit_moe import tensors_from
from moejax.interop.torch_files import import_torch

_DEFAULT = str(Path(__file__).resolve().parents[1] / "configs/dit/dit_moe_paper.py") + ":size=S/2,experts=8"
_CONFIG = config_flags.DEFINE_config_file("config", _DEFAULT, "Config whose model is timed.")
_BATCH = flags.DEFINE_integer("batch", 8, "Latents of a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Timed calls of each.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all times.")
TOLERANCE = 1e-3
PRODUCT = 1536  # side of the matrices whose product is the bound


def lively(params: Any) -> Any:
    """Parameters without zeros: a new DiT's blocks have no effect, and nothing would be compared."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure, [a + 0.02 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


def measure(model: Any, *, batch: int, rounds: int) -> dict[str, Any]:
    """Times in seconds, medians (ms), ratio, bound and environment. Raises SpecError when the outputs differ."""
    torch = import_torch()
    from torch_dit import TorchDiT  # needs PyTorch

    torch.set_num_threads(environment()["cpus"])
    params, state = jax.jit(model.init)(jax.random.key(0))
    params = jax.jit(lively)(params)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((batch, model.image_size, model.image_size, model.channels), np.float32)
    time, label = draw.uniform(0, 999, batch).astype(np.float32), draw.integers(0, model.num_classes, batch)
    given = tuple(jnp.asarray(array) for array in (x, time, label.astype(np.int32)))
    told = tuple(
        torch.from_numpy(np.ascontiguousarray(a)) for a in (x.transpose(0, 3, 1, 2), time, label.astype(np.int64))
    )
    apply = jax.jit(lambda p, s, x, t, y: _picture(model.apply(p, s, x, t, y)))
    module = TorchDiT(model).eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in tensors_from(params, model).items()})

    def ours() -> Any:
        return apply(params, state, *given)

    def theirs() -> Any:
        with torch.inference_mode():
            return module(*told)

    difference = float(np.abs(np.asarray(ours()) - theirs().numpy().transpose(0, 2, 3, 1)).max())
    if not difference < TOLERANCE:
        raise SpecError(f"the two models differ by {difference:.3g}, more than {TOLERANCE}: nothing to compare.")
    seconds = interleaved({"moejax": ours, "pytorch": theirs}, rounds=rounds)
    flops, rate = batch * summarise(model, batch_size=batch).total("flops_per_example"), _rate(torch)
    facts = environment()
    facts["versions"]["torch"] = torch.__version__
    found = {
        "batch": batch,
        "rounds": rounds,
        "difference": difference,
        "seconds": seconds,
        "medians_ms": medians(seconds),
    }
    found |= {"ratio": ratios(seconds, "pytorch")["moejax"], "flops": flops, "flops_per_second": rate}
    return found | {"bound_ms": 1000 * flops / max(rate.values()), "environment": facts}


def _picture(out: Any) -> Any:
    return out.prediction if out.variance is None else jnp.concatenate([out.prediction, out.variance], axis=-1)


def _rate(torch: Any) -> dict[str, float]:
    """FLOPs per second of a matrix product in both libraries."""
    a = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)
    own, other, product = jnp.asarray(a), torch.from_numpy(a), jax.jit(jnp.matmul)
    seconds = interleaved({"moejax": lambda: product(own, own), "pytorch": lambda: other @ other}, rounds=9)
    return {name: 2 * PRODUCT**3 / min(values) for name, values in seconds.items()}


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        model = build_method("models", _CONFIG.value.to_dict()["model"], path="config.model")
        found = measure(dataclasses.replace(model, dtype="float32"), batch=_BATCH.value, rounds=_ROUNDS.value)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, value in found["medians_ms"].items():
        print(f"{name:8} {value:9.1f} ms   {100 * found['bound_ms'] / value:5.1f} % of the bound")
    print(f"bound    {found['bound_ms']:9.1f} ms   {found['flops']:,} FLOPs")
    print(f"ratio    {found['ratio']:9.3f}      moejax / pytorch, median over {found['rounds']} rounds")
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(
            json.dumps(found | {"config": _CONFIG.value.to_dict()["model"]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
