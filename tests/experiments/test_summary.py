"""The summary: FLOPs by hand and beside the compiler's own count, and the figures of the command."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from moejax.core.spec import build_method
from moejax.evals.flops import count_flops
from moejax.evals.summary import summarise
from tests.command_lines import typed

SMALL = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16, "num_classes": 3}


def vit(router: dict | None = None, **fields):
    if router is not None:
        fields |= {"moe": {"router": router, "experts": {"name": "mlp", "expert_dim": 16}}, "moe_layers": "final1"}
    return build_method("models", {"name": "vit", "pooling": "avg"} | SMALL | fields)


def test_flops_and_parameters_of_a_dense_vit_by_hand() -> None:
    result = summarise(vit(), batch_size=2).to_dict()
    # 4 tokens, D 8, F 16. Stem 2*4*48*8 = 3072. Block: projections 4 * 2*4*8*8 = 2048; scores and values
    # 2 * 2*4*4*8 = 512; MLP 2 * 2*4*8*16 = 2048; together 4608, twice. Head 2*8*3 = 48.
    assert result["flops_per_example"] == 3072 + 2 * 4608 + 48
    assert result["step_flops_per_example"] == 3 * result["flops_per_example"]
    # Stem 48*8 + 8, positions 4*8. Block: norms 4*8, attention 4*(64 + 8), MLP 2*8*16 + 16 + 8. Norm 16, head 24 + 3.
    assert result["total_params"] == 392 + 32 + 2 * (32 + 288 + 280) + 16 + 27
    assert result["activated_params"] == result["total_params"]
    assert result["params_bytes"] == 4 * result["total_params"]


def test_flops_agree_with_the_compilers_count() -> None:
    model = vit(dim=64, num_heads=4, mlp_dim=256)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    unrolled = build_method(
        "models", {"name": "vit", "pooling": "avg"} | SMALL | {"dim": 64, "num_heads": 4, "mlp_dim": 256, "scan": False}
    )
    compiled = jax.jit(lambda p, s, x: unrolled.apply(p, s, x).logits)
    params, state = jax.eval_shape(unrolled.init, jax.random.key(0))
    analysis = compiled.lower(params, state, images).compile().cost_analysis()
    theirs = (analysis[0] if isinstance(analysis, list) else analysis)["flops"]
    ours = 4 * summarise(model, batch_size=4).total("flops_per_example")
    # The compiler also counts what is no product (norms, softmax, GELU): a few per cent at this width.
    assert ours <= theirs <= 1.1 * ours


def test_scans_convolutions_and_branches_are_counted() -> None:
    w, x = jnp.zeros((3, 5, 5)), jnp.zeros((2, 5))
    assert count_flops(lambda x: jax.lax.scan(lambda c, k: (c @ k, None), x, w)[0], x) == 3 * 2 * 2 * 5 * 5

    # 4x4 outputs of 3x3x2 inputs to 5 channels, in one picture
    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert count_flops(convolve, jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 5))) == 2 * 16 * 5 * 18

    def branch(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x.T, lambda x: x @ x.T @ x @ x.T, x)

    assert count_flops(branch, x) == 2 * (2 * 2 * 5) + (2 * 2 * 2 * 5 + 2 * 2 * 5 * 2)
    bank, rows = jnp.zeros((3, 5, 7)), jnp.zeros((6, 5))

    def ragged(r, k):
        return jax.lax.ragged_dot(r, k, jnp.asarray([2, 0, 4], jnp.int32))

    assert count_flops(ragged, rows, bank) == 2 * 6 * 5 * 7


BANK = 16 * 8 * 2 + 16 + 8  # parameters of one expert
EXPERT = 4 * 8 * 16  # FLOPs of one row


@pytest.mark.parametrize(
    ("router", "idle_experts", "rows", "other_flops", "padding_rows"),
    [
        # 4 tokens, 3 experts, 2 choices, capacity ceil(1.5 * 4 * 2 / 3) = 4: 12 slots for 8 choices; router 2*4*8*3
        ({"name": "top_k", "num_experts": 3, "num_selected_experts": 2, "capacity_factor": 1.5}, 1, 8, 192, 4),
        # dropless: no padding
        ({"name": "top_k", "num_experts": 3, "num_selected_experts": 2}, 1, 8, 192, 0),
        # capacity 4 / 2 = 2: 4 rows, one expert per token on average; router 2*4*8*2
        ({"name": "expert_choice", "num_experts": 2, "capacity_factor": 1.0}, 1, 4, 128, 0),
        # 3 slots for 4 tokens: 0.75 experts per token; router 2*4*8*3, mixing there and back 2 * 2*4*3*8
        ({"name": "soft", "num_experts": 3}, 2.25, 3, 192 + 384, 0),
    ],
)
def test_moe_layers_by_hand(router: dict, idle_experts: float, rows: int, other_flops: int, padding_rows: int) -> None:
    result = summarise(vit(router), batch_size=2)
    part = result.parts[2]
    attention = 2048 + 512
    assert part.name == "block_01" and part.kind == f"{router['name']} E={router['num_experts']}"
    assert part.flops_per_example == attention + rows * EXPERT + other_flops
    assert part.padding_flops_per_example == padding_rows * EXPERT
    assert part.params - part.activated_params == idle_experts * BANK


def test_remat_trades_activations_for_flops() -> None:
    plain, recomputed = (summarise(vit(remat=remat), batch_size=2) for remat in ("none", "full"))
    # Blocks run four times, not three; each keeps its input alone: 2 pictures of 4 tokens of 8 float32.
    assert recomputed.total("step_flops_per_example") - plain.total("step_flops_per_example") == 2 * 4608
    assert [part.activation_bytes for part in recomputed.parts[1:3]] == [256, 256]
    assert plain.parts[1].activation_bytes > 256


@pytest.mark.slow
def test_the_command_prints_json_and_a_table(root) -> None:
    config = root / "configs" / "vit" / "vmoe_paper.py"
    arg = f"{config}:size=S/32,moe=last2,experts=32,num_classes=18291"
    done = typed(root, "summary.py", "--config", arg, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["total_params"] == 166_680_435
    # Of 32 experts two serve a token, in two layers: 60 idle ones of 2*512*2048 + 2048 + 512 parameters.
    assert found["activated_params"] == 166_680_435 - 60 * 2_099_712
    assert found["optimizer_bytes"] >= 2 * found["params_bytes"]
    assert len(found["parts"]) == 10 and found["parts"][6]["name"] == "block_05"


def test_the_table_has_a_row_per_part(root, monkeypatch) -> None:
    monkeypatch.syspath_prepend(root / "experiments")
    spec = importlib.util.spec_from_file_location("summary_main", root / "experiments" / "summary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = module.table(summarise(vit(), batch_size=2)).splitlines()
    assert lines[0].split()[:3] == ["part", "kind", "params"]
    assert [line.split()[0] for line in lines[2:6]] == ["embedding", "block_00", "block_01", "head"]
    assert lines[7].startswith("total") and "12.34 k" in lines[7]  # 3072 + 2 * 4608 + 48 = 12336 FLOPs
    assert module.short(999) == "999" and module.short(1_234_567) == "1.23 M"
