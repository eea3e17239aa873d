"""Rows on an untrained model: what must hold of every one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.evals.pruning_curve import chart, lines_of, pruning_curve
from moejax.models.vit import VisionTransformer


def setup():
    fields = {
        "image_size": 8, "patch_size": 2, "dim": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8, "num_classes": 3,
        "pooling": "avg", "moe_layers": "all",
        "moe": {
            "router": {"name": "top_k", "num_experts": 4, "num_selected_experts": 1, "capacity_factor": None},
            "experts": {"name": "mlp", "expert_dim": 4},
        },
    }  # fmt: skip
    model = build_spec(VisionTransformer, fields)
    draw = np.random.default_rng(0)
    images = draw.normal(size=(4, 8, 8, 3)).astype(np.float32)
    batch = {"image": images, "label": np.array([0, 1, 2, 0]), "mask": np.array([True, True, True, False])}
    params, state = model.init(jax.random.key(0))
    head = params["head"].replace(kernel=jax.random.normal(jax.random.key(1), (8, 3)))  # zero at first
    return model, params | {"head": head}, state, [batch]


def test_rows():
    model, params, state, batches = setup()
    orders = {"one": [{"00": np.array([3, 0, 1, 2])}], "random": [{"00": np.arange(4)}, {"00": np.array([3, 0, 2, 1])}]}
    rows = pruning_curve(model, params, state, batches, orders, [0, 2])
    assert [(row["order"], row["pruned"], row["share"]) for row in rows] == [
        ("one", 0, 0.0), ("random", 0, 0.0), ("one", 2, 0.5), ("random", 2, 0.5)
    ]  # fmt: skip
    logits = np.asarray(model.apply(params, state, jnp.asarray(batches[0]["image"])).logits, np.float64)[:3]
    loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), [0, 1, 2]])
    assert rows[0]["loss"] == rows[1]["loss"] == pytest.approx(loss, rel=1e-5)
    assert all(row["pictures"] == 3 for row in rows) and rows[2]["spread"] is None and rows[3]["draws"] == 2
    # Of one's last two experts, 1 and 2, and of the random draws', 2 and 3, then 1 and 2: the second draw is one's.
    assert rows[3]["spread"] is not None and rows[2]["loss"] != rows[0]["loss"]
    assert len(lines_of(rows)) == 6 and [curve.label for curve in chart(rows).curves] == ["one", "random"]


def test_counts_begin_with_none():
    with pytest.raises(SpecError, match=r"counts=\[2\] must ascend from 0"):
        pruning_curve(*setup(), {"one": [{"00": np.arange(4)}]}, [2])
