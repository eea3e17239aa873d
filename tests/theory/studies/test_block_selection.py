"""Columns of a trial, selection by hand, and the whole at a small size."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.block_gaussian_moe import num_parameters
from moejax.theory.studies.block_selection import TRUE_BLOCKS, BlockSelection, full_covariances, same_blocks


def test_blocks_are_the_truths_in_either_order():
    assert same_blocks(TRUE_BLOCKS) and same_blocks(TRUE_BLOCKS[::-1])
    assert not same_blocks(TRUE_BLOCKS[[0, 0]]) and not same_blocks(TRUE_BLOCKS * 0)
    # 1 + 2 + 2, 2 * 6 * 2 weights, 12 variances, and pairs: 3 + 1 and 1 + 3
    assert num_parameters(TRUE_BLOCKS, 1) == 5 + 24 + 12 + 8


def test_of_equal_dimensions_the_best_fit_counts():
    study = BlockSelection(replicates=5)
    # Contrasts fall by 100 to dimension 10, then by 0.5 for every parameter; the second model of dimension 10 is hopeless.
    dimension = np.array([5.0, 10.0, 10.0, 20.0, 30.0, 40.0, np.nan])
    contrast = np.array([100.0, -5.0, 90.0, -10.0, -15.0, -20.0, np.nan])
    raw = {"dimension": dimension, "contrast": contrast, "divergence": dimension / 100}
    raw = {name: values[None] for name, values in raw.items()}
    for rule in ("dimension jump", "data-driven slope"):
        found = study.selected(raw, rule)
        assert found["dimension"] == [10.0] and found["divergence"] == [0.1]
    broken = raw | {"contrast": np.where(dimension == 20, np.nan, contrast)[None]}
    assert np.isnan(study.selected(broken, "dimension jump")["divergence"][0])


@pytest.mark.slow
def test_a_part_again_gives_the_same_and_the_truth_is_selected():
    study = BlockSelection(sizes=(500, 700, 1000), replicates=5, num_experts=(1, 2, 3), degrees=(1,), starts=2)
    raw = {part: study.estimates(part) for part in study.parts}
    own = raw["1000"]
    np.testing.assert_array_equal(own["contrast"], study.estimates("1000")["contrast"])
    assert np.all(own["divergence"][np.isfinite(own["dimension"])] > 0)
    assert full_covariances(own).shape == (5,)
    chosen = study.selected(own, "data-driven slope")
    assert np.mean(chosen["experts"] == 2) >= 0.8 and np.mean(chosen["right"]) >= 0.6
    assert len(study.findings(raw)) == 12 and len(study.chart(raw).curves) == 4


def test_models_without_the_truth_are_refused():
    with pytest.raises(SpecError, match=r"num_experts=\(1, 3\)"):
        BlockSelection(num_experts=(1, 3))
    with pytest.raises(SpecError, match=r"degrees=\(2,\)"):
        BlockSelection(degrees=(2,))
