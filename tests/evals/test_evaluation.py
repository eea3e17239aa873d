"""A tiny V-MoE and Soft MoE with fresh parameters: everything that a checkpoint is asked, and its maps."""

import jax
import numpy as np
import pytest

from moejax.core.spec import build_method
from moejax.data.dataset import ArraySplit, Dataset, Opened
from moejax.data.pipeline import Pipeline
from moejax.evals.evaluation import environment, evaluate
from moejax.evals.few_shot import FewShot
from moejax.evals.map_sheets import choose, map_sheet, samples

ROUTERS = {
    "vmoe": {"name": "top_k", "num_experts": 3, "num_selected_experts": 1, "capacity_factor": 0.5},
    "soft": {"name": "soft", "num_experts": 3, "num_slots": 2},
}


def split(count, seed):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 4).astype(np.int32)
    images = rng.integers(0, 100, (count, 16, 16, 3), dtype=np.uint8) + (30 * labels[:, None, None, None]).astype(
        np.uint8
    )
    return ArraySplit(images, labels)


@pytest.fixture(scope="module")
def dataset():
    splits = {"train": split(32, 0), "validation": split(12, 1), "test": split(10, 2)}
    names = {"class_names": ("a", "b", "c", "d"), "domain_names": ("x", "y"), "class_domains": (0, 0, 1, 1)}
    return Dataset("tiny", Opened(splits=splits, **names), Pipeline(batch_size=8, eval_batch_size=8))


def model(router):
    moe = {"router": ROUTERS[router], "experts": {"name": "mlp", "expert_dim": 8}}
    sizes = {"image_size": 16, "patch_size": 8, "dim": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8, "num_classes": 4}
    spec = build_method("models", {"name": "vit", **sizes, "moe": moe, "moe_layers": "final1", "pooling": "avg"})
    return spec, *spec.init(jax.random.key(0))


def test_everything_that_a_checkpoint_is_asked(dataset):
    found = evaluate(*model("vmoe"), dataset, few_shot=FewShot(shots=4, draws=2))
    # The head starts at zero: all classes equally likely, and the first is named. Labels 0 1 2 3 0 1 2 3 0 1: 3 of 10.
    assert found["accuracy"]["all"] == {"accuracy": 0.3, "count": 10, "standard_error": pytest.approx(0.021**0.5)}
    assert found["calibration"]["nll"] == pytest.approx(np.log(4), abs=1e-6)
    layer = found["routing"]["block_00"]
    served = np.array(layer["expert_by_class"]).sum(0)
    # Four tokens and three experts at factor 0.5: ceil or floor of 4 / 3 / 2 slots each, at most three of four tokens served.
    assert (served <= 0.75 + 1e-6).all() and (served > 0).all()
    assert sum(layer["realised_load"]) == pytest.approx(1.0)
    assert {"dropped", "unserved", "padding"} <= set(layer["metrics"])
    assert found["few_shot"]["draws"] == 2
    assert found["summary"]["total_params"] > found["summary"]["activated_params"]


def test_few_shot_is_left_out_where_classes_are_too_small(dataset):
    assert evaluate(*model("soft"), dataset, few_shot=FewShot(shots=10))["few_shot"] is None
    assert evaluate(*model("soft"), dataset, split="validation")["few_shot"] is None


def test_maps_show_the_assignments_of_the_chosen_pictures(dataset):
    rows = choose(dataset, "test", per_domain=2)
    labels = dataset.examples("test")[1]
    assert sorted(labels[rows]) == [0, 1, 2, 3]
    sheet = map_sheet("vmoe", *model("vmoe"), dataset, rows)
    maps = sheet.layers["block_00"]
    assert maps.expert.shape == (4, 2, 2) and maps.kind == "routed"
    assert (maps.expert == -1).sum() >= 4  # at least one of four patches of every picture is dropped
    assert sheet.titles == [dataset.info.class_names[label] for label in labels[rows]]
    np.testing.assert_array_equal(sheet.images, dataset.examples("test")[0][rows])


def test_mixtures_keep_a_few_slots(dataset):
    sheet = map_sheet("soft", *model("soft"), dataset, choose(dataset, "test", per_domain=1), slots=2)
    assert sheet.layers["block_00"].kind == "mixed"
    assert sheet.slots.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(sheet.slots.sum((-1, -2)), 1.0, rtol=1e-5)  # a slot is a mean over the four patches


def test_samples_take_classes_in_turn(dataset):
    found = samples(dataset, per_domain=4)
    assert list(found) == ["x", "y"]
    assert found["y"][1] == ["c", "d", "c", "d"]
    assert found["y"][0].shape == (4, 16, 16, 3)


def test_the_environment_names_versions():
    found = environment()
    assert found["versions"]["jax"] == jax.__version__
    assert "cpu" in found["device"].lower()
