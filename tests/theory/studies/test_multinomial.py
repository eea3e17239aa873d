"""Multinomial experts: the flat set is named, fits repeat, and a split expert is found at the fourth root."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.multinomial import Multinomial


@pytest.mark.parametrize("gate, directions", [("identity", 6), ("tanh", 5)])
def test_exact_splits_of_a_constant_expert_are_a_flat_set(gate, directions):
    """Share and two probabilities, 1 + 2; three more change the slopes of both halves against each other, first order only."""
    difference, reason = Multinomial().exact_split(gate)
    assert difference < 1e-14 and f"has {directions} flat directions (gate bias 0 : gate bias 1 :" in reason


def test_a_part_again_gives_the_same_and_constant_experts_have_no_number():
    study = Multinomial(sizes=(10**7, 10**8, 10**9), replicates=5, starts=1, iterations=8)
    part = "split-tanh-10000000"
    raw, again = study.estimates(part), study.estimates(part)
    np.testing.assert_array_equal(raw["params"], again["params"])
    assert raw["params"].shape == (5, 18)
    np.testing.assert_array_equal(raw["params"][:, [2, 5]], 0.0)  # the pinned gate
    errors = study.errors(part, raw | {"slope": np.array([0.0, 0.0, 0.0, 0.0, 1.0])})
    assert np.isnan(errors["D1"]).tolist() == [False] * 4 + [True]
    found = study.findings({name: study.estimates(name) for name in study.parts})
    flat = [
        one
        for one in found
        if one.expected.quantity.startswith("a constant expert") and "too many" in one.expected.quantity
    ]
    assert [one.verdict for one in flat] == ["not testable"] * 2
    assert all("flat directions" in one.reason for one in flat)
    same = [one for one in found if "exact split" in one.expected.quantity]
    assert [one.verdict for one in same] == ["confirmed"] * 2 and all(one.measured < 1e-14 for one in same)


@pytest.mark.slow
def test_the_loss_falls_at_the_square_root_and_a_split_expert_at_the_fourth():
    study = Multinomial(sizes=(10**8, 10**10, 10**12), replicates=20, starts=3)
    parts = [part for part in study.parts if part.startswith("split-identity")]
    raw = {part: study.estimates(part) for part in parts}
    errors = {n: study.errors(f"split-identity-{n}", raw[f"split-identity-{n}"]) for n in study.sizes}
    medians = {name: [np.nanmedian(errors[n][name]) for n in study.sizes] for name in ("D1", "cell intercept")}
    slopes = {name: np.polyfit(np.log(study.sizes), np.log(values), 1)[0] for name, values in medians.items()}
    assert slopes["D1"] == pytest.approx(-0.5, abs=0.1) and slopes["cell intercept"] == pytest.approx(-0.25, abs=0.08)
    assert sum(np.isnan(one["D1"]).sum() for one in errors.values()) <= 6


def test_what_gives_no_interval_is_refused():
    with pytest.raises(SpecError, match=r"at least 3 sizes"):
        Multinomial(sizes=(1000, 10_000))
