"""Published diffusion transformers have as many parameters, in all and activated, as published."""

import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.evals.summary import summarise

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "dit" / "dit_moe_paper.py"


def model(arg: str):
    spec = importlib.util.spec_from_file_location("dit_moe_paper", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return build_method("models", module.get_config(arg).model.to_dict())


@functools.cache
def count(arg: str) -> tuple[int, int]:
    """(total, activated) from shapes; published totals count the fixed table of positions."""
    spec = model(arg)
    params, _ = jax.eval_shape(spec.init, jax.random.key(0))
    total = sum(leaf.size for leaf in jax.tree.leaves(params)) + spec.num_tokens * spec.dim
    idle = 0
    if spec.moe is not None:
        router = spec.moe.router
        idle = spec.moe.experts.num_params(router.num_experts - router.num_selected_experts, spec.dim)
    return total, total - len(spec.moe_indices) * idle


@pytest.mark.parametrize(
    ("arg", "total", "activated"),
    [
        ("size=S/2,experts=8", 199_307_552, 71_905_568),
        ("size=S/2,experts=16", 369_213_728, 71_942_432),
        ("size=B/2,experts=8", 795_861_536, 286_253_600),
        ("size=B/2,experts=16", 1_475_412_512, 286_327_328),
    ],
)
def test_exact_counts(arg: str, total: int, activated: int) -> None:
    assert count(arg) == (total, activated)


@pytest.mark.parametrize(
    ("arg", "millions", "activated", "within"),
    [
        ("size=L/2,experts=8", 2_800, 1_000, 30),
        ("size=XL/2,experts=8", 4_170, 1_490, 10),
        ("size=G/2,experts=16", 16_500, 3_180, 10),
        ("size=S/2,experts=0", 33, 33, 0.5),
        ("size=B/2,experts=0", 130, 130, 0.6),
        ("size=L/2,experts=0", 458, 458, 0.5),
        ("size=XL/2,experts=0", 675, 675, 0.5),
    ],
)
def test_rounded_counts(arg: str, millions: float, activated: float, within: float) -> None:
    found = count(arg)
    assert abs(found[0] / 1e6 - millions) <= within
    assert abs(found[1] / 1e6 - activated) <= within


def test_a_block_of_xl_by_the_papers_formula() -> None:
    """Attention 4 D^2 + 4 D, four norm vectors of a head, E SwiGLUs of 4 D, a shared one of 2 D, the gate, adaLN."""
    spec, D, E = model("size=XL/2,experts=8"), 1152, 8
    params, _ = jax.eval_shape(lambda key: spec.blocks[0].init(key, D), jax.random.key(0))
    attention = 4 * D**2 + 4 * D + 4 * D // 16
    expected = attention + E * 12 * D**2 + 6 * D**2 + E * D + 6 * D**2 + 6 * D
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_the_summary_names_the_fixed_table() -> None:
    command = [sys.executable, ROOT / "experiments" / "summary.py", "--json"]
    done = subprocess.run(
        [*command, "--config", f"{CONFIG}:size=S/2,experts=8", "--batch_size", "2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    found = json.loads(done.stdout)
    assert (found["total_params"], found["activated_params"]) == (199_307_552, 71_905_568)
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts)[:4] == ["embedding", "positions", "condition", "block_00"] and list(parts)[-1] == "final"
    assert parts["positions"]["params"] == 256 * 384 and parts["positions"]["optimizer_bytes"] == 0
    assert parts["positions"]["params_bytes"] == 4 * 256 * 384


def test_flops_of_a_small_model_by_hand() -> None:
    router = {"name": "top_k", "num_experts": 3, "num_selected_experts": 2, "noise_std": 0.0}
    moe = {
        "router": router,
        "experts": {"name": "swiglu", "expert_dim": 6},
        "shared": {"name": "swiglu", "expert_dim": 4},
    }
    sizes = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "num_heads": 2, "mlp_dim": 12, "num_classes": 3}
    spec = build_method("models", {"name": "dit", "moe": moe, **sizes})
    parts = {part.name: part for part in summarise(spec, batch_size=2).parts}
    # 4 tokens, D 8. Patches of 48 numbers; the time 256 -> 8 -> 8; out 8 -> 48 and the final 8 -> 16.
    assert parts["embedding"].flops_per_example == 2 * 4 * 48 * 8
    assert parts["condition"].flops_per_example == 2 * (256 * 8 + 8 * 8)
    assert parts["final"].flops_per_example == 2 * 8 * 16 + 2 * 4 * 8 * 48
    # Attention 4 * 2*4*8*8 + 2 * 2*4*4*8; adaLN 2*8*48; router 2*4*8*3; 8 expert rows of 6*8*6; the shared 4 of 6*8*4.
    block = 2048 + 512 + 768 + 192 + 8 * 288 + 4 * 192
    assert parts["block_00"].flops_per_example == block
    # One of three experts idles: 3 * 8 * 6 parameters.
    assert parts["block_00"].params - parts["block_00"].activated_params == 144


@pytest.mark.parametrize(
    ("arg", "method"),
    [
        ("router=expert_choice", "expert_choice"),
        ("router=soft", "soft"),
        ("intervals=4", "time_groups"),
        ("bank=low_rank,rank=32", "low_rank"),
        ("size=S/4,shared=0", "swiglu"),
        ("size=S/8,process=rectified_flow", "top_k"),
    ],
)
def test_variants_build(arg: str, method: str) -> None:
    spec = model(arg)
    names = {type(part).__module__.rpartition(".")[2] for part in (spec.moe.router, spec.moe.experts)}
    assert method in names
    jax.eval_shape(spec.init, jax.random.key(0))


def test_arguments_that_do_not_go_together() -> None:
    with pytest.raises(SpecError, match="'M' is no published size"):
        model("size=M/2")
    with pytest.raises(SpecError, match="intervals=2 goes with router=top_k"):
        model("router=soft,intervals=2")
    with pytest.raises(SpecError, match="router='sotf' is unknown.*Did you mean 'soft'"):
        model("router=sotf")
