"""The table of overflow on an untrained model: what must hold of every row."""

import jax
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.evals.overflow_table import lines_of, overflow_table
from moejax.models.vit import VisionTransformer

FIELDS = {
    "image_size": 8, "patch_size": 2, "dim": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8, "num_classes": 3, "pooling": "avg",
    "moe_layers": "all",
}  # fmt: skip


def vit(router):
    moe = {"router": {"num_experts": 4} | router, "experts": {"name": "mlp", "expert_dim": 4}}
    return build_spec(VisionTransformer, FIELDS | {"moe": moe})


@pytest.mark.slow
def test_rows():
    model = vit({"name": "top_k", "num_selected_experts": 2, "noise_std": 0.0})
    params, state = model.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    images = draw.normal(size=(4, 8, 8, 3)).astype(np.float32)
    mask = np.array([True, True, True, False])
    batches = [{"image": images, "label": np.array([0, 1, 2, 0]), "mask": mask}]
    rows = overflow_table(model, params, state, batches, factors=(2.0, 0.5))
    assert [(row["capacity_factor"], row["overflow"]) for row in rows] == [
        (None, "full"), *((factor, way) for factor in (2.0, 0.5) for way in ("in order", "drop", "reroute"))
    ]  # fmt: skip
    by = {(row["capacity_factor"], row["overflow"]): row for row in rows}
    assert all(row["pictures"] == 3 for row in rows)
    for way in ("in order", "drop", "reroute"):  # a factor of E / K is room for every token
        for name in ("accuracy", "loss", "gate", "max_load"):
            np.testing.assert_allclose(by[2.0, way][name], by[None, "full"][name], rtol=1e-5)
        assert by[0.5, way]["max_load"] <= 0.5
    assert by[0.5, "drop"]["gate"] <= by[0.5, "reroute"]["gate"] < by[None, "full"]["gate"]
    assert by[0.5, "in order"]["gate"] <= by[0.5, "drop"]["gate"]
    assert len(lines_of(rows)) == 9


def test_other_routers():
    model = vit({"name": "soft"})
    with pytest.raises(SpecError, match="router is 'top_k'"):
        overflow_table(model, *model.init(jax.random.key(0)), [])
