"""Published models have as many parameters as published, to the unit where a unit is known."""

import importlib.util
import pathlib

import jax
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, build_spec
from moejax.layers.moe import MoE
from moejax.models import sizes

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs" / "vit"


def count(name: str, arg: str) -> int:
    """Parameters of a config's model, from shapes."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = build_method("models", module.get_config(arg).model.to_dict())
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[0]))


@pytest.mark.parametrize(
    ("name", "arg", "published"),
    [
        ("vmoe_paper", "size=S/32,moe=last2", 166_680_435),
        ("vmoe_paper", "size=S/32,moe=every2", 296_895_347),
        ("vmoe_paper", "size=B/16,moe=last2", 393_294_963),
        ("vmoe_paper", "size=S/32,moe=last2,experts=8,num_classes=1000", 56_999_400),
        ("vmoe_paper", "size=B/16,moe=every2,experts=8,num_classes=21843,pre_logits=false", 300_974_931),
        ("soft_moe_paper", "size=S/16", 933_709_471),
        ("soft_moe_paper", "size=S/16,router=expert_choice", 933_709_465),
        ("soft_moe_paper", "size=S/16,router=none", 33_059_737),
        ("soft_moe_paper", "size=S/14,router=none", 33_013_657),
        ("soft_moe_paper", "size=B/16,router=none", 108_555_673),
    ],
)
def test_exact_counts(name: str, arg: str, published: int) -> None:
    assert count(name, arg) == published


@pytest.mark.parametrize(
    ("name", "arg", "millions", "within"),
    [
        ("vmoe_paper", "size=S/32,moe=none", 36.47, 0.005),
        ("vmoe_paper", "size=B/32,moe=none", 102.11, 0.005),
        ("vmoe_paper", "size=B/32,moe=last2", 394.95, 0.005),
        ("vmoe_paper", "size=B/32,moe=every2", 980.6, 0.05),
        ("vmoe_paper", "size=B/16,moe=none", 100.46, 0.005),
        ("vmoe_paper", "size=B/16,moe=every2", 979.0, 0.05),
        ("vmoe_paper", "size=L/32,moe=none", 325.31, 0.05),
        ("vmoe_paper", "size=L/32,moe=every2", 3448.2, 0.05),
        ("vmoe_paper", "size=L/16,moe=none", 323.10, 0.05),
        ("vmoe_paper", "size=L/16,moe=every2", 3_400, 50),
        ("vmoe_paper", "size=H/14,moe=none", 655.84, 0.05),
        ("vmoe_paper", "size=H/14,moe=last5", 2_700, 50),
        ("vmoe_paper", "size=H/14,moe=every2", 7_200, 50),
        ("vmoe_paper", "size=15B/16,moe=every2", 14_690, 10),
        ("soft_moe_paper", "size=S/14", 1_840, 5),
        ("soft_moe_paper", "size=B/16", 3_700, 50),
        ("soft_moe_paper", "size=L/16", 13_100, 50),
        ("soft_moe_paper", "size=L/16,router=none", 334, 0.5),
        ("soft_moe_paper", "size=H/14,experts=128", 27_300, 50),
        ("soft_moe_paper", "size=H/14", 54_200, 50),
        ("soft_moe_paper", "size=H/14,router=none", 669, 0.5),
    ],
)
def test_rounded_counts(name: str, arg: str, millions: float, within: float) -> None:
    assert abs(count(name, arg) / 1e6 - millions) <= within


def test_sizes_that_were_not_published() -> None:
    with pytest.raises(SpecError, match="'XL' is no published size"):
        sizes.fields(sizes.VMOE, "XL/16")
    with pytest.raises(SpecError, match="such as 'B/16'"):
        sizes.fields(sizes.VMOE, "B")


def layer(*, split, num_shared):
    """DeepSeekMoE's layer from the sizes of 4 experts of width 12 of which a token meets 2."""
    found = sizes.fine_grained(4, 2, 12, split=split, num_shared=num_shared)
    router = {"name": "top_k", "noise_std": 0.0, **found["router"]}
    shared = {"name": "swiglu", **found["shared"]} if "shared" in found else None
    fields = {"router": router, "experts": {"name": "swiglu", **found["experts"]}, "shared": shared}
    return build_spec(MoE, fields)


@pytest.mark.parametrize("split, num_shared", [(1, 0), (2, 0), (3, 1), (4, 2), (6, 5)])
def test_fine_grained_experts_cost_what_the_coarse_ones_cost(split, num_shared):
    def costs(moe):
        params = jax.eval_shape(lambda: moe.init(jax.random.key(0), 8))[0]
        kernels = {name: tree for name, tree in params.items() if name != "router"}
        flops = moe.router.num_selected_experts * moe.experts.flops_per_token(8)
        flops += moe.shared.flops_per_token(8) if moe.shared else 0
        return sum(leaf.size for leaf in jax.tree.leaves(kernels)), flops

    assert costs(layer(split=split, num_shared=num_shared)) == costs(layer(split=1, num_shared=0)) == (4 * 288, 1152)


def test_no_split_and_nothing_shared_is_the_coarse_layer():
    assert sizes.fine_grained(4, 2, 12) == {
        "router": {"num_experts": 4, "num_selected_experts": 2},
        "experts": {"expert_dim": 12},
    }
    assert layer(split=3, num_shared=2).router.num_experts == 10
    assert layer(split=3, num_shared=2).router.num_selected_experts == 4
    assert layer(split=3, num_shared=2).shared.expert_dim == 8


def test_fine_grained_sizes_that_do_not_exist():
    with pytest.raises(SpecError, match="split=5 must divide expert_dim=12"):
        sizes.fine_grained(4, 2, 12, split=5)
    with pytest.raises(SpecError, match="num_shared=2 must be at least 0 and below"):
        sizes.fine_grained(4, 2, 12, num_shared=2)


@pytest.mark.parametrize(
    ("name", "total", "billions", "activated"),
    [
        # The total as the hub counts the released tensors; billions as the authors give them.
        ("Mixtral-8x7B", 46_702_792_704, 46.7, 12.9),
        ("Qwen1.5-MoE-A2.7B", 14_315_784_192, 14.3, 2.7),
        ("OLMoE-1B-7B", 6_919_161_856, 6.9, 1.3),
        ("DeepSeekMoE-16B", 16_375_728_128, 16.4, 2.8),
    ],
)
def test_language_models(name: str, total: int, billions: float, activated: float) -> None:
    model = build_method("models", {"name": "decoder"} | sizes.LANGUAGE[name].fields)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    leaves = {
        "/".join(str(part.key) for part in path if hasattr(part, "key")): leaf.size
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    assert sum(leaves.values()) == total
    assert round(total / 1e9, 1) == billions
    idle = 1 - model.moe.router.num_selected_experts / model.moe.router.num_experts
    unused = idle * sum(size for leaf, size in leaves.items() if "/moe/experts/" in leaf)
    assert round((total - unused) / 1e9, 1) == activated
