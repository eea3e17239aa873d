"""Costs of models whose weights became other leaves, by hand."""

import jax
import jax.numpy as jnp
import pytest

from moejax.core.segments import split_segments
from moejax.core.spec import build_method, build_spec
from moejax.evals.summary import summarise
from moejax.evals.weight_costs import activated_params, bank_flops, num_params
from moejax.layers.moe import MoE
from moejax.linear.dense import Dense
from moejax.linear.indexed import Indexed
from moejax.linear.low_rank import LowRank
from moejax.linear.shared_factor import SharedFactor
from moejax.models.vit import VisionTransformer

EXPERTS, DIM, WIDTH, RANK = 4, 8, 16, 2


def zeros(*shape):
    return jnp.zeros(shape, jnp.float32)


def bank(up, down=None):
    dense = Dense(zeros(EXPERTS, WIDTH, DIM))
    return {"up": up, "up_bias": zeros(EXPERTS, WIDTH), "down": down or dense, "down_bias": zeros(EXPERTS, DIM)}


LOW_RANK = LowRank(zeros(EXPERTS, DIM, RANK), zeros(EXPERTS, RANK, WIDTH))
UNEVEN = LowRank(zeros(EXPERTS, DIM, RANK), zeros(EXPERTS, RANK, WIDTH), (2, 1, 1, 2))
SHARED = SharedFactor(zeros(DIM, RANK), zeros(EXPERTS, RANK, WIDTH))
MERGED = Indexed(Dense(zeros(2, DIM, WIDTH)), (0, 1, 1, 0))
BIASES, DENSE = EXPERTS * (WIDTH + DIM), DIM * WIDTH
CASES = {  # leaf, its parameters, what one of two experts of four brings, FLOPs per row
    "dense": (Dense(zeros(EXPERTS, DIM, WIDTH)), EXPERTS * DENSE, 2 * DENSE, 2 * DENSE),
    "low rank": (LOW_RANK, EXPERTS * RANK * (DIM + WIDTH), 2 * RANK * (DIM + WIDTH), 2 * RANK * (DIM + WIDTH)),
    "uneven": (UNEVEN, 6 * (DIM + WIDTH), 3 * (DIM + WIDTH), 3 * (DIM + WIDTH)),
    "shared": (SHARED, RANK * (DIM + EXPERTS * WIDTH), RANK * (DIM + 2 * WIDTH), 2 * RANK * (DIM + WIDTH)),
    "merged": (MERGED, 2 * DENSE, 2 * DENSE, 2 * DENSE),
}


@pytest.mark.parametrize("case", CASES)
def test_counts_of_a_bank(case):
    leaf, size, met, row_flops = CASES[case]
    params, mlp = bank(leaf), build_method("experts", {"name": "mlp", "expert_dim": WIDTH})
    assert num_params(params) == size + EXPERTS * DENSE + BIASES
    assert activated_params(params, experts_per_token=2.0, num_experts=EXPERTS) == met + 2 * DENSE + BIASES // 2
    assert bank_flops(mlp, params, num_experts=EXPERTS, dim=DIM) == (row_flops + 2 * DENSE, 0)


def model():
    moe = {
        "router": {"name": "top_k", "num_experts": EXPERTS, "num_selected_experts": 2},
        "experts": {"name": "mlp", "expert_dim": WIDTH},
    }
    return VisionTransformer(
        image_size=8, patch_size=4, dim=DIM, depth=2, num_heads=2, mlp_dim=WIDTH, num_classes=3, pooling="avg",
        moe=build_spec(MoE, moe), moe_layers="last1",
    )  # fmt: skip


def test_the_summary_of_compressed_parameters():
    vit = model()
    params, state = (split_segments(tree) for tree in vit.init(jax.random.key(0)))
    assert summarise(vit, params=params, state=state).to_dict() == summarise(vit).to_dict()
    cut = LowRank(zeros(EXPERTS, DIM, RANK), zeros(EXPERTS, RANK, WIDTH))
    dense = LowRank(zeros(DIM, RANK), zeros(RANK, WIDTH))
    moe_index = next(i for i, block in params["blocks"].items() if "moe" in block)
    blocks = {name: dict(block) for name, block in params["blocks"].items()}
    blocks[moe_index]["moe"] = {
        **blocks[moe_index]["moe"],
        "experts": {**blocks[moe_index]["moe"]["experts"], "up": cut},
    }
    other = next(i for i in blocks if "feed_forward" in blocks[i])
    blocks[other]["feed_forward"] = {**blocks[other]["feed_forward"], "up": dense}
    before, after = summarise(vit), summarise(vit, params={**params, "blocks": blocks}, state=state)
    saved = DENSE - RANK * (DIM + WIDTH)
    assert before.total("params") - after.total("params") == (EXPERTS + 1) * saved
    assert before.total("activated_params") - after.total("activated_params") == (2 + 1) * saved
    assert before.total("flops_per_example") - after.total("flops_per_example") == vit.num_tokens * (2 + 1) * 2 * saved
